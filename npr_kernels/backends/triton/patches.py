"""Device code for patches: the geometry of ``csrc/npr.h`` in Triton.

A patch is what one convolution output reads: the differences of bytes at its taps. Kernels hold a tile of them as
float16 [positions, width], in the columns of :mod:`.layout`, ready to be an operand of ``tl.dot``. The differences are
integers in [-510, 510], exact in float16.

A byte becomes float16 without a conversion: 0x6400 is float16 1024, whose last ten bits count ones, so 0x6400 | u is
1024 + u, and (1024 + u) - (1024 + a) = u - a exactly.
"""

import triton
import triton.language as tl

from npr_kernels.backends.triton import layout


@triton.jit
def split_index(start, size, BLOCK: tl.constexpr):
    """Rows (int64) and columns (int32) of the flat positions start .. start + BLOCK - 1 in a matrix ``size`` wide.

    One 64-bit division a tile; the positions themselves need only 32 bits.
    """
    row = start // size
    flat = (start - row * size).to(tl.int32) + tl.arange(0, BLOCK)
    return row + flat // size, flat % size


@triton.jit
def patches(
    image, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C: tl.constexpr, RESIDUAL: tl.constexpr
):  # fmt: skip
    """[P, width]: patches ``group`` of outputs (y, x) [P].

    ``image`` points at pixel (0, 0) of channel 0, one pointer or [P]. ``here`` says which positions exist. Strides are
    int64.
    """
    DEPTH: tl.constexpr = layout.depth(RESIDUAL, C)
    pixel = image + 2 * y.to(tl.int64) * stride_h + 2 * x.to(tl.int64) * stride_w  # [P], the anchors
    if RESIDUAL == "npr":
        return _npr(pixel, y, x, here, stride_c, stride_h, stride_w, group, C, DEPTH)
    elif RESIDUAL == "haar":
        return _haar(pixel, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C, DEPTH)
    else:
        tl.static_assert(RESIDUAL == "npr+haar")
        npr = _npr(pixel, y, x, here, stride_c, stride_h, stride_w, group, C, DEPTH)
        haar = _haar(pixel, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C, DEPTH)
        # Triton 3.6 cannot compile a joined matrix as an operand of tl.dot on sm_90; what is computed from it, it can.
        return tl.reshape(tl.join(npr, haar), [here.shape[0], 2 * DEPTH]) + 0.0


@triton.jit
def _minus(u, a):
    """u - a of bytes, in float16."""
    return (u.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - (a.to(tl.int16) | 0x6400).to(
        tl.float16, bitcast=True
    )


@triton.jit
def _haar(
    pixel, y, x, here, stride_c, stride_h, stride_w, rows, cols, group, C: tl.constexpr, DEPTH: tl.constexpr
):  # fmt: skip
    """[P, DEPTH]: what the taps DEPTH * group .. read of the diagonal band.

    A thread loads the four bytes of a cell for each tap. (Cells that neighbours share would want other threads' bytes.)
    """
    t = DEPTH * group + tl.arange(0, DEPTH)
    tap = t % 9
    dy, dx = tap // 3 - 1, tap % 3 - 1
    cell_y, cell_x = y.to(tl.int32)[:, None] + dy[None, :], x[:, None] + dx[None, :]
    there = (cell_y >= 0) & (cell_y < rows) & (cell_x >= 0) & (cell_x < cols)
    there = there & here[:, None] & (t < 9 * C)[None, :]
    at = (t // 9).to(tl.int64) * stride_c + 2 * dy.to(tl.int64) * stride_h + 2 * dx.to(tl.int64) * stride_w
    a = pixel[:, None] + at[None, :]
    c = a + stride_h
    top = _minus(tl.load(a, mask=there, other=0), tl.load(a + stride_w, mask=there, other=0))
    bottom = _minus(tl.load(c, mask=there, other=0), tl.load(c + stride_w, mask=there, other=0))
    return top - bottom


@triton.jit
def _npr(pixel, y, x, here, stride_c, stride_h, stride_w, group, C: tl.constexpr, DEPTH: tl.constexpr):
    """[P, DEPTH]: what the taps of channels DEPTH / 8 * group .. read of NPR.

    A thread loads the bytes of one channel: where there are fewer positions than threads, none loads in vain.
    """
    CHANNELS: tl.constexpr = DEPTH // 8
    c = CHANNELS * group + tl.arange(0, CHANNELS)[None, :]
    pixel = pixel[:, None] + c * stride_c  # [P, CHANNELS]
    here = here[:, None] & (c < C)
    above, before = pixel - 2 * stride_h, pixel - 2 * stride_w
    before_above = above - 2 * stride_w
    corner = stride_h + stride_w
    # Both bytes of a difference are 0 where its cell is outside the image.
    up, left = here & (y > 0)[:, None], here & (x > 0)[:, None]
    up_left = up & left
    a0 = tl.load(before_above, mask=up_left, other=0)
    a1 = tl.load(above, mask=up, other=0)
    a2 = tl.load(before, mask=left, other=0)
    a3 = tl.load(pixel, mask=here, other=0)
    t0 = tl.load(before_above + corner, mask=up_left, other=0)
    t1 = tl.load(above + stride_h, mask=up, other=0)
    t2 = tl.load(above + corner, mask=up, other=0)
    t3 = tl.load(before + stride_w, mask=left, other=0)
    t4 = tl.load(pixel + stride_w, mask=here, other=0)
    t5 = tl.load(before + corner, mask=left, other=0)
    t6 = tl.load(pixel + stride_h, mask=here, other=0)
    t7 = tl.load(pixel + corner, mask=here, other=0)
    # Joined halves, quarters, eighths: the last join is the lowest bit of a tap's number.
    taps = tl.join(tl.join(tl.join(t0, t4), tl.join(t2, t6)), tl.join(tl.join(t1, t5), tl.join(t3, t7)))
    anchors = tl.join(tl.join(tl.join(a0, a3), tl.join(a1, a3)), tl.join(tl.join(a1, a2), tl.join(a2, a3)))
    return _minus(tl.reshape(taps, [here.shape[0], DEPTH]), tl.reshape(anchors, [here.shape[0], DEPTH]))
