"""Device code for patches: the geometry of ``csrc/npr.h`` in Triton.

A patch is what one convolution output reads: eight differences a channel, k = 8 c + tap, in the tap order of
``csrc/npr.h``. Kernels hold a tile of them as float16 [positions, 8 * GROUP], GROUP channels at a time, ready to be an
operand of ``tl.dot``. The differences are integers in [-255, 255], exact in float16.

A byte becomes float16 without a conversion: 0x6400 is float16 1024, whose last ten bits count ones, so 0x6400 | u is
1024 + u, and (1024 + u) - (1024 + a) = u - a exactly.
"""

import triton
import triton.language as tl


@triton.jit
def split_index(start, size, BLOCK: tl.constexpr):
    """Rows (int64) and columns (int32) of the flat positions start .. start + BLOCK - 1 in a matrix ``size`` wide.

    One 64-bit division a tile; the positions themselves need only 32 bits.
    """
    row = start // size
    flat = (start - row * size).to(tl.int32) + tl.arange(0, BLOCK)
    return row + flat // size, flat % size


@triton.jit
def only_if(condition, mask):
    """``mask`` if the scalar ``condition`` holds. Not ``&``: the interpreter makes integers of a scalar truth."""
    return tl.where(condition, mask, False)


@triton.jit
def _pixel_pair(pixel, stride_w, mask):
    """Two neighbouring pixels u of each position, as 1024 + u; 1024 where masked."""
    pair = pixel[:, None] + tl.arange(0, 2)[None, :] * stride_w
    value = tl.load(pair, mask=mask[:, None], other=0).to(tl.int16)
    return tl.split((value | 0x6400).to(tl.float16, bitcast=True))


@triton.jit
def _cell(pixel, stride_h, stride_w, mask):
    """The three differences of the cells whose anchors are at ``pixel`` [P]: right, below, corner; 0 where masked."""
    anchor, right = _pixel_pair(pixel, stride_w, mask)
    below, corner = _pixel_pair(pixel + stride_h, stride_w, mask)
    return right - anchor, below - anchor, corner - anchor


@triton.jit
def _taps(up_left_corner, up_below, up_corner, left_right, left_corner, right, below, corner):
    """[P, 8] from the differences around one output, in tap order; joins happen in registers."""
    even = tl.join(tl.join(up_left_corner, right), tl.join(up_corner, below))
    odd = tl.join(tl.join(up_below, left_corner), tl.join(left_right, corner))
    return tl.reshape(tl.join(even, odd), [corner.shape[0], 8])


@triton.jit
def _side_by_side(a, b):
    """[P, 2 K] from two [P, K]."""
    return tl.reshape(tl.permute(tl.join(a, b), (0, 2, 1)), [a.shape[0], 2 * a.shape[1]])


@triton.jit
def _channel_patch(pixel, stride_h, stride_w, up, left, here):
    """[P, 8]: the patches of one channel, centred on the anchors at ``pixel``."""
    _, _, up_left_corner = _cell(pixel - 2 * stride_h - 2 * stride_w, stride_h, stride_w, here & up & left)
    _, up_below, up_corner = _cell(pixel - 2 * stride_h, stride_h, stride_w, here & up)
    left_right, _, left_corner = _cell(pixel - 2 * stride_w, stride_h, stride_w, here & left)
    right, below, corner = _cell(pixel, stride_h, stride_w, here)
    return _taps(up_left_corner, up_below, up_corner, left_right, left_corner, right, below, corner)


@triton.jit
def patches(pixel, stride_c, stride_h, stride_w, up, left, here, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """[P, 8 * GROUP]: the patches of channels ``channel`` .. ``channel + GROUP - 1``; 0 from channel C on.

    ``pixel`` [P] points at the outputs' anchors in channel 0. ``here`` says which positions exist, ``up`` and ``left``
    which have cells above and to the left. Strides are int64.
    """
    pixel += channel * stride_c
    a = _channel_patch(pixel, stride_h, stride_w, up, left, here)
    b = _channel_patch(pixel + stride_c, stride_h, stride_w, up, left, only_if(channel + 1 < C, here))
    out = _side_by_side(a, b)
    if GROUP == 4:
        a = _channel_patch(pixel + 2 * stride_c, stride_h, stride_w, up, left, only_if(channel + 2 < C, here))
        b = _channel_patch(pixel + 3 * stride_c, stride_h, stride_w, up, left, only_if(channel + 3 < C, here))
        out = _side_by_side(out, _side_by_side(a, b))
    return out


@triton.jit
def _channel_window_row(pixel, stride_h, stride_w, up, here, left, right):
    """Three [P, 8]: the patches of one channel at columns 2 px - 1, 2 px, 2 px + 1 of one convolution row."""
    above = pixel - 2 * stride_h
    left_cells = here & left
    right_cell = here & right
    _, _, u0c = _cell(above - 4 * stride_w, stride_h, stride_w, left_cells & up)
    _, u1b, u1c = _cell(above - 2 * stride_w, stride_h, stride_w, left_cells & up)
    _, u2b, u2c = _cell(above, stride_h, stride_w, here & up)
    _, u3b, u3c = _cell(above + 2 * stride_w, stride_h, stride_w, right_cell & up)
    r0, _, c0 = _cell(pixel - 4 * stride_w, stride_h, stride_w, left_cells)
    r1, b1, c1 = _cell(pixel - 2 * stride_w, stride_h, stride_w, left_cells)
    r2, b2, c2 = _cell(pixel, stride_h, stride_w, here)
    r3, b3, c3 = _cell(pixel + 2 * stride_w, stride_h, stride_w, right_cell)
    return (
        _taps(u0c, u1b, u1c, r0, c0, r1, b1, c1),
        _taps(u1c, u2b, u2c, r1, c1, r2, b2, c2),
        _taps(u2c, u3b, u3c, r2, c2, r3, b3, c3),
    )


@triton.jit
def window_row(pixel, stride_c, stride_h, stride_w, up, here, left, right, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """Three [P, 8 * GROUP]: patches at columns 2 px - 1, 2 px, 2 px + 1 of one row of the pooling windows.

    Each cell is loaded once for the three. ``pixel`` [P] points at the anchor of column 2 px in channel 0; ``here``
    says where the row exists, ``up`` where there is a cell row above, ``left`` and ``right`` where columns 2 px - 1 and
    2 px + 1 exist.
    """
    pixel += channel * stride_c
    a0, a1, a2 = _channel_window_row(pixel, stride_h, stride_w, up, here, left, right)
    b0, b1, b2 = _channel_window_row(
        pixel + stride_c, stride_h, stride_w, up, only_if(channel + 1 < C, here), left, right
    )
    out0, out1, out2 = _side_by_side(a0, b0), _side_by_side(a1, b1), _side_by_side(a2, b2)
    if GROUP == 4:
        a0, a1, a2 = _channel_window_row(
            pixel + 2 * stride_c, stride_h, stride_w, up, only_if(channel + 2 < C, here), left, right
        )
        b0, b1, b2 = _channel_window_row(
            pixel + 3 * stride_c, stride_h, stride_w, up, only_if(channel + 3 < C, here), left, right
        )
        out0 = _side_by_side(out0, _side_by_side(a0, b0))
        out1 = _side_by_side(out1, _side_by_side(a1, b1))
        out2 = _side_by_side(out2, _side_by_side(a2, b2))
    return out0, out1, out2
