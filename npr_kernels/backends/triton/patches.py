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
def patches(image, y, x, here, stride_c, stride_h, stride_w, channel, C: tl.constexpr, GROUP: tl.constexpr):
    """[P, 8 * GROUP]: patches of outputs (y, x) [P], channels ``channel`` .. ``channel + GROUP - 1``; 0 from C on.

    ``image`` points at pixel (0, 0) of channel 0, one pointer or [P]. ``here`` says which positions exist. Strides are
    int64. A thread loads the bytes of one channel: where there are fewer positions than threads, none loads in vain.
    """
    c = channel + tl.arange(0, GROUP)[None, :]
    pixel = image + 2 * y.to(tl.int64) * stride_h + 2 * x.to(tl.int64) * stride_w
    pixel = pixel[:, None] + c * stride_c  # [P, GROUP], the anchors
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
    taps = tl.reshape(taps, [here.shape[0], 8 * GROUP]).to(tl.int16)
    anchors = tl.reshape(anchors, [here.shape[0], 8 * GROUP]).to(tl.int16)
    return (taps | 0x6400).to(tl.float16, bitcast=True) - (anchors | 0x6400).to(tl.float16, bitcast=True)
