"""Memory that the fused convolution takes, and sizes beyond 32 bits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

import npr_kernels as nk
from npr_kernels.backends import native
from tests import needs
from tests.npr_kernels.inputs import draw_images, draw_weight

pytestmark = needs.extension

MIB = 1 << 20
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def allocations(run) -> list[int]:
    """Bytes that each operation of torch allocates while run() runs, largest first."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    sizes = [event.self_cpu_memory_usage for event in profiled.events()]
    return sorted((size for size in sizes if size > 0), reverse=True)


@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("layout", ["nchw", "channels_last", "strided"])
def test_no_temporary_is_larger_than_the_image(rng, layout, residual):
    images = draw_images(rng, (8, 3, 256, 256), layout)
    weight = draw_weight(rng, 64, 3, residual=residual).requires_grad_()
    out = nk.npr_conv2d(images, weight, residual=residual)
    grad = torch.randn_like(out)
    out_bytes = out.numel() * 4

    forward = allocations(lambda: nk.npr_conv2d(images, weight.detach(), residual=residual))
    assert forward[0] == out_bytes
    assert sum(forward[1:]) <= images.numel()
    backward = allocations(lambda: torch.autograd.grad(out, weight, grad))
    assert sum(backward) <= images.numel()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the kernel keeps no resettable peak of memory")
def test_peak_memory_is_the_output(rng):
    """The process's own peak, which also sees what the kernels allocate behind torch's back."""
    images, weight = draw_images(rng, (16, 3, 512, 512)), draw_weight(rng, 64, 3)
    nk.npr_conv2d(images[:1], weight)

    def kilobytes(field: str) -> int:
        return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0])

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError as error:
        pytest.skip(f"the peak of memory cannot be reset: {error}")
    before = kilobytes("VmRSS")
    out = nk.npr_conv2d(images, weight)
    grown = (kilobytes("VmHWM") - before) * 1024
    assert grown <= out.numel() * 4 + images.numel() + 16 * MIB


@needs.facts
@pytest.mark.usefixtures("instruction_set")
@pytest.mark.parametrize("layout", ["nchw", "channels_last"])
@pytest.mark.parametrize("width", [64, 66], ids=["whole cache lines", "parts of lines"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_what_does_not_fit_the_caches_is_the_same(rng, layout, width, dtype):
    """Such results are written past them: bit for bit what each image gives alone, whose result fits."""
    weight, bias = draw_weight(rng, 48, 3, dtype), torch.from_numpy(rng.standard_normal(48)).to(dtype)
    one = nk.npr_conv2d(draw_images(rng, (1, 3, 64, width), layout), weight, bias)
    bytes_of_one, cache = one.numel() * one.element_size(), native.facts.CACHE_SHARE
    assert 0 < bytes_of_one < cache
    few = draw_images(rng, (8, 3, 64, width), layout)
    images = few.repeat(cache // bytes_of_one // 8 + 1, 1, 1, 1).contiguous(memory_format=FORMATS[layout])
    out = nk.npr_conv2d(images, weight, bias)
    assert out.numel() * out.element_size() > cache
    expected = torch.cat([nk.npr_conv2d(image, weight, bias) for image in few.split(1)])
    assert all(torch.equal(each, expected) for each in out.split(8))


def far_apart(tensor: torch.Tensor) -> torch.Tensor:
    """The same values with more than 2^32 bytes between the images: memory reserved, but never touched."""
    distance = (1 << 32) // tensor.element_size() + 12345
    storage = torch.empty(distance * (len(tensor) - 1) + tensor[0].numel(), dtype=tensor.dtype)
    return storage.as_strided(tensor.shape, (distance, *tensor.stride()[1:])).copy_(tensor)


@pytest.mark.usefixtures("instruction_set")
def test_strides_beyond_32_bits(rng):
    images, weight = draw_images(rng, (2, 3, 16, 16)), draw_weight(rng, 8, 3).requires_grad_()
    out, far_out = nk.npr_conv2d(images, weight), nk.npr_conv2d(far_apart(images), weight)
    assert torch.equal(far_out, out)
    grad = torch.randn_like(out)
    (weight_grad,) = torch.autograd.grad(out, weight, grad)
    (far_weight_grad,) = torch.autograd.grad(far_out, weight, far_apart(grad))
    assert torch.equal(far_weight_grad, weight_grad)


@pytest.mark.slow
def test_more_outputs_than_32_bits(rng):
    """2100 views of one image: 2.2e9 outputs, 4.4 GB of bfloat16."""
    needed, free = 6 << 30, os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if free < needed:
        pytest.skip(f"needs {needed >> 30} GiB of free memory, {free >> 30} are")
    image = draw_images(rng, (1, 3, 256, 256))
    images, weight = image.expand(2100, -1, -1, -1), draw_weight(rng, 64, 3, torch.bfloat16)
    out = nk.npr_conv2d(images, weight)
    assert out.numel() > 1 << 31
    one = nk.npr_conv2d(image, weight)
    for index in (0, 1023, 2099):
        assert torch.equal(out[index], one[0])
