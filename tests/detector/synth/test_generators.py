"""Simulated generators: fitted as least squares says, and leaving the traces that they are made for."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from detector.synth import FAMILIES, SUITE_28, SUITES, Generator, GeneratorSpec, find_families
from detector.synth.build import MARGIN
from detector.synth.generators import RIDGE, _ridge
from detector.synth.upsampling import UPSAMPLERS


def smooth_images(count, side, seed):
    """uint8 [count, 3, side, side] with the correlation between neighbours that photographs have."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1 / side
    noise = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(count, 3, side, side))) / frequency**1.3, (side, side))
    noise = 128 + 45 * noise / noise.std()
    return torch.from_numpy(noise.round().clip(0, 255).astype(np.uint8))


FIT = smooth_images(16, 48, 0)
TEST = smooth_images(4, 48, 1)


@pytest.fixture(autouse=True)
def one_thread():
    """As in a build, where several threads could round a pixel differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def psnr(a, b):
    return float(10 * torch.log10(255**2 / (a.double() - b.double()).square().mean()))


ALL = tuple(dict.fromkeys([*FAMILIES, *SUITE_28]))


@pytest.mark.parametrize("suite", SUITES)
def test_the_tables(suite):
    families = SUITES[suite]
    assert {spec.upsampler for spec in families} == set(UPSAMPLERS)
    assert {spec.kind for spec in families} == {"GAN-like", "diffusion-like", "face-swap-like"}
    assert len({spec.description for spec in families}) == len(families)
    assert all(MARGIN % spec.scale == 0 for spec in families)  # the rim that is cut off keeps cells aligned


def test_the_suite_of_the_paper():
    kinds = [spec.kind for spec in SUITE_28]
    assert [kinds.count(kind) for kind in ("GAN-like", "diffusion-like", "face-swap-like")] == [16, 11, 1]
    assert sum(spec.scale == 8 for spec in SUITE_28) >= 4
    assert len({spec.name for spec in ALL}) == len(ALL)  # one name means one generator, in whatever suite
    assert len({replace(spec, name="", seed=0) for spec in SUITE_28}) >= 27  # `nearest` alone comes with two seeds


def test_a_coarser_operator():
    spec = GeneratorSpec("x", "GAN-like", "bicubic", channels=(8, 26), coarse="nearest")
    assert [spec.operator(level) for level in (0, 1)] == ["bicubic", "nearest"]
    assert spec.description.startswith("GAN-like: nearest x2, then bicubic x2, ")
    # Below, a pixel shuffle that keeps everything gives its input back: only the level above it shows.
    whole = GeneratorSpec("x", "GAN-like", "nearest", kernel=1, channels=(3, 12), coarse="pixelshuffle")
    top = GeneratorSpec("x", "GAN-like", "nearest", kernel=1, channels=(3,))
    error = Generator(whole, FIT).reconstruct(TEST).int() - Generator(top, FIT).reconstruct(TEST).int()
    assert error.abs().max() <= 3  # the ridge's


def test_find_families():
    assert [spec.name for spec in find_families(["fir", "nearest"])] == ["fir", "nearest"]
    with pytest.raises(ValueError, match="unknown generator families dalle; known are nearest, "):
        find_families(["fir", "dalle"])
    with pytest.raises(ValueError, match="named twice"):
        find_families(["fir", "fir"])
    with pytest.raises(ValueError, match="no generator families"):
        find_families([])


@pytest.mark.parametrize("spec", ALL, ids=lambda spec: spec.name)
def test_every_family_reconstructs_unseen_images(spec):
    generator = Generator(spec, FIT)
    fakes = generator.reconstruct(TEST)
    assert fakes.shape == TEST.shape
    assert fakes.dtype == torch.uint8
    mean = TEST.double().mean((2, 3), keepdim=True).expand(TEST.shape)
    assert psnr(fakes, TEST) > psnr(mean, TEST) + 3
    assert not torch.equal(fakes, TEST)
    assert torch.equal(fakes, Generator(spec, FIT).reconstruct(TEST))  # seeded
    for image, fake in zip(TEST, fakes, strict=True):  # images do not mix
        assert (generator.reconstruct(image[None])[0].int() - fake.int()).abs().max() <= 1
    # The rim of MARGIN pixels holds whatever padding has changed.
    part = generator.reconstruct(TEST[..., 8:, 8:])[..., MARGIN:, MARGIN:]
    assert (part.int() - fakes[..., MARGIN + 8 :, MARGIN + 8 :].int()).abs().max() <= 1


def test_seed_kernel_and_channels_matter():
    def fakes(**fields):
        return Generator(GeneratorSpec("nearest", "GAN-like", "nearest", **fields), FIT).reconstruct(TEST)

    by_channels = [psnr(fakes(channels=(channels,)), TEST) for channels in (3, 6, 9)]
    assert by_channels == sorted(by_channels)
    by_kernel = [psnr(fakes(kernel=kernel), TEST) for kernel in (1, 3, 5)]
    assert by_kernel == sorted(by_kernel)
    assert not torch.equal(fakes(seed=0), fakes(seed=1))


def test_all_information_and_pixel_shuffle_give_the_photograph_back():
    spec = GeneratorSpec("all", "GAN-like", "pixelshuffle", kernel=1, channels=(12,))
    assert psnr(Generator(spec, FIT).reconstruct(TEST), TEST) > 45


def test_nearest_with_a_1x1_convolution_repeats_pixels_in_aligned_cells():
    spec = GeneratorSpec("blocks", "GAN-like", "nearest", kernel=1)
    fakes = Generator(spec, FIT).reconstruct(TEST)
    for offset in ((0, 1), (1, 0), (1, 1)):
        assert torch.equal(fakes[..., ::2, ::2], fakes[..., offset[0] :: 2, offset[1] :: 2])
    deep = GeneratorSpec("blocks", "GAN-like", "nearest", kernel=1, channels=(8, 16, 32))
    fakes = Generator(deep, FIT).reconstruct(TEST)
    assert torch.equal(fakes, fakes[..., ::8, ::8].repeat_interleave(8, 2).repeat_interleave(8, 3))


@pytest.mark.parametrize("kernel", [1, 3, 4])
def test_ridge_is_the_minimum(kernel):
    """Against NumPy's least squares on the augmented system, in float64."""
    basis, target = torch.randn(3, 2, 9 + kernel - 1, 8 + kernel - 1), torch.randn(3, 4, 9, 8)
    weight, bias = _ridge(basis, target, kernel)
    columns = F.unfold(basis.double(), kernel).permute(0, 2, 1).reshape(-1, 2 * kernel**2).numpy()
    columns = np.column_stack([columns, np.ones(len(columns))])
    wanted = target.double().permute(0, 2, 3, 1).reshape(-1, 4).numpy()
    penalty = RIDGE * np.square(columns).sum(0).mean()
    terms = columns.shape[1]
    augmented = np.vstack([columns, np.sqrt(penalty) * np.eye(terms)])
    solution = np.linalg.lstsq(augmented, np.vstack([wanted, np.zeros((terms, 4))]), rcond=None)[0]
    np.testing.assert_allclose(weight.flatten(1).T, solution[:-1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(bias, solution[-1], rtol=1e-4, atol=1e-6)
    assert F.conv2d(basis, weight, bias).shape == target.shape
