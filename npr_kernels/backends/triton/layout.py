"""How the taps of a residual lie in patches, in folded weights and in sums.

A tap has a number k = 0 .. K - 1 in the order of the weight, (map, channel, tap), as in ``csrc/npr.h``: so are moments
and sums indexed. tl.dot takes multiples of 16, and two maps that are made from the same bytes are best made side by
side. So a patch has a fixed number of columns: ``depth`` taps of each map, alternating where there are two maps, and
where K is larger, several patches follow one another, groups. Over all groups, column maps * t + m is tap t of map m,
or zero from the map's last tap on. The rows of folded weights lie as the columns do.

The functions without tensors are for host and device: kernels call them with constants, at compile time.
"""

import triton
import triton.language as tl

from npr_kernels.residuals import RESIDUALS


@triton.constexpr_function
def maps(residual):
    """Maps of the residual."""
    return len(RESIDUALS[residual])


@triton.constexpr_function
def taps(residual, which):
    """Taps of each channel in a map."""
    return RESIDUALS[residual][which].taps


@triton.constexpr_function
def dead_centre(residual, which):
    """Whether the centre of the kernel meets only zeros in a map, and has no tap."""
    return 4 not in RESIDUALS[residual][which].positions


@triton.constexpr_function
def largest(residual):
    """Magnitude of the patches' integers."""
    return max(each.largest for each in RESIDUALS[residual])


@triton.constexpr_function
def first_tap(residual, channels, which):
    """Number of a map's first tap; for the map after the last, K."""
    return channels * sum(each.taps for each in RESIDUALS[residual][:which])


@triton.constexpr_function
def length(residual, channels):
    """K, the number of taps."""
    return first_tap(residual, channels, maps(residual))


@triton.constexpr_function
def depth(residual, channels):
    """Columns of each map in a patch: 16 or 32, the depths that tl.dot takes."""
    return 16 if channels * max(each.taps for each in RESIDUALS[residual]) <= 16 else 32


@triton.constexpr_function
def width(residual, channels):
    """Columns of a patch."""
    return maps(residual) * depth(residual, channels)


@triton.constexpr_function
def groups(residual, channels):
    """Patches that hold all taps."""
    return triton.cdiv(channels * max(each.taps for each in RESIDUALS[residual]), depth(residual, channels))


@triton.jit
def tap_of(column, RESIDUAL: tl.constexpr, C: tl.constexpr):
    """The tap k in each column, counted over all groups; -1 where there is none."""
    MAPS: tl.constexpr = maps(RESIDUAL)
    t = column // MAPS
    k = tl.zeros_like(column) - 1
    for m in tl.static_range(MAPS):
        exists = (column % MAPS == m) & (t < C * taps(RESIDUAL, m))
        k = tl.where(exists, t + first_tap(RESIDUAL, C, m), k)
    return k


@triton.jit
def place_of(k, RESIDUAL: tl.constexpr, C: tl.constexpr):
    """Where the weights of taps k are: channel of the weight, position in its kernel; and if that has a dead centre."""
    channel, position = tl.zeros_like(k), tl.zeros_like(k)
    dead = k < 0
    for m in tl.static_range(maps(RESIDUAL)):
        t = k - first_tap(RESIDUAL, C, m)
        here = (t >= 0) & (t < C * taps(RESIDUAL, m))
        tap = t % taps(RESIDUAL, m)
        channel = tl.where(here, m * C + t // taps(RESIDUAL, m), channel)
        if dead_centre(RESIDUAL, m):
            tap += (tap >= 4).to(tl.int32)
            dead = dead | here
        position = tl.where(here, tap, position)
    return channel, position, dead
