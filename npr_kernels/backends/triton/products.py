"""Device code for products: float32-accurate matrix products on tensor cores.

The differences are integers, exact in float16, which counts ones up to 2^11, and up to 2^8 in bfloat16; larger ones are
two terms there. The other factor is split into terms, and every product of terms is exact in the float32 accumulator.
Products in float64 are sums of products element by element: tl.dot of float64 does not compile in every Triton.
"""

import triton
import triton.language as tl

from npr_kernels.backends.triton import compat

_BFLOAT16 = tl.constexpr(compat.BFLOAT16_OPERAND)
_TRUNCATES = tl.constexpr(compat.BFLOAT16_TRUNCATES)


@triton.jit
def multiply(patch, high, low, acc, TERMS: tl.constexpr):
    """acc + patch @ (high + low): [P, K] float16 by [K, O] of one or two float16 terms, or one float64 term."""
    if high.dtype == tl.float64:
        return acc + tl.sum(patch.to(tl.float64)[:, :, None] * high[None, :, :], axis=1)
    else:
        if TERMS == 2:
            acc = tl.dot(patch, low, acc)
        return tl.dot(patch, high, acc)


@triton.jit
def _leading_bits(value):
    """The leading 8 bits of float32 values as bfloat16, and the exact rest: truncation needs no conversion."""
    bits = value.to(tl.int32, bitcast=True)
    rest = value - ((bits >> 16) << 16).to(tl.float32, bitcast=True)
    return (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True), rest


@triton.jit
def _bfloat16_product(grad, patch, acc, LARGEST: tl.constexpr):
    """acc + grad^T @ patch of a gradient in bfloat16."""
    grad = tl.trans(grad.to(_BFLOAT16))
    if LARGEST > 256:
        # A sum from 2048 to 4095 is rounded to an even number: what comes back is even, at most 512, with 8 bits.
        tl.static_assert(LARGEST <= 512)
        even = (patch + 3072.0) - 3072.0
        acc = tl.dot(grad, (patch - even).to(_BFLOAT16), acc)
        patch = even
    return tl.dot(grad, patch.to(_BFLOAT16), acc)


@triton.jit
def contract(grad, patch, acc, LARGEST: tl.constexpr):
    """acc + grad^T @ patch: [P, O] of any floating dtype by [P, K] float16 to [O, K], float64 for float64.

    The patch's integers are at most LARGEST. float16 and bfloat16 are one term. float32 is three of bfloat16, all of
    its 24 bits over all of its range: the scale of a gradient is not known beforehand.
    """
    if grad.dtype == tl.float64:
        return acc + tl.sum(grad[:, :, None] * patch.to(tl.float64)[:, None, :], axis=0)
    elif grad.dtype == tl.float16:
        return tl.dot(tl.trans(grad), patch, acc)
    elif grad.dtype == tl.bfloat16:
        return _bfloat16_product(grad, patch, acc, LARGEST)
    else:
        high, rest = _leading_bits(grad)
        middle, rest = _leading_bits(rest)
        low, rest = _leading_bits(rest)
        acc = _bfloat16_product(high, patch, acc, LARGEST)
        acc = _bfloat16_product(middle, patch, acc, LARGEST)
        return _bfloat16_product(low, patch, acc, LARGEST)


@triton.jit
def rounded(value, dtype: tl.constexpr):
    """A float32 or float64 value in ``dtype``, rounded to nearest; float64 goes by way of float32."""
    if value.dtype == dtype:
        return value
    value = value.to(tl.float32)
    if _TRUNCATES and dtype == tl.bfloat16:
        bits = value.to(tl.int32, bitcast=True)
        nearest = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).to(tl.float32, bitcast=True)
        value = tl.where(value == value, nearest, value)
    return value.to(dtype)
