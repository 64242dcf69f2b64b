"""Learned generators: what they make, that they learn, and that a training repeats and goes on."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from detector.synth.learned import LEARNED, LearnedSpec, train, training
from detector.synth.learned.blocks import Fir, Residual, up
from detector.synth.learned.losses import feature_matching, hinge, reconstruction

SMALL = LearnedSpec("small", "autoencoder", "nearest", 4, width=16, latent=3)


@pytest.fixture(autouse=True)
def few_pixels(monkeypatch):
    monkeypatch.setattr(training, "BATCH", 2)
    monkeypatch.setattr(training, "CROP", 32)


@pytest.fixture
def photographs(rng):
    """Smooth coloured fields with edges: something to learn in a few steps."""
    images = []
    for _ in range(4):
        coarse = torch.from_numpy(rng.uniform(0, 255, (1, 3, 6, 6))).float()
        images.append(F.interpolate(coarse, size=(80, 96), mode="bicubic")[0].clamp(0, 255).to(torch.uint8))
    return images


@pytest.mark.parametrize("spec", LEARNED, ids=lambda spec: spec.name)
def test_every_generator_trains_and_remakes_images_of_any_size(spec, photographs, rng):
    generator = train(replace(spec, width=16), photographs, steps=2, verbose=False)
    height, width = (int(side) for side in rng.integers(17, 50, 2))
    images = torch.from_numpy(rng.integers(0, 256, (2, 3, height, width), dtype=np.uint8))
    made = generator.reconstruct(images)
    assert made.shape == images.shape
    assert made.dtype == torch.uint8
    assert not torch.equal(made, images)
    assert torch.equal(made, generator.reconstruct(images))
    # One image's noise depends neither on its neighbours nor on torch's generator.
    torch.manual_seed(int(rng.integers(1000)))
    assert torch.equal(generator.reconstruct(images[1:]), made[1:])
    assert generator.reconstruct(images[:0]).shape == (0, 3, height, width)


def test_names_are_unique():
    assert len({spec.name for spec in LEARNED}) == len(LEARNED)


def test_an_autoencoder_learns(photographs):
    start = train(SMALL, photographs, steps=1, verbose=False)
    end = train(SMALL, photographs, steps=60, verbose=False)
    images = torch.stack([image[:, :64, :64] for image in photographs])

    def error(generator):
        return (generator.reconstruct(images).double() - images).abs().mean().item()

    assert error(end) < 0.6 * error(start)
    assert end.training.reconstruction < start.training.reconstruction


def test_the_same_training_gives_the_same_generator(photographs):
    images = photographs[0][None]
    first, second = (train(SMALL, photographs, steps=4, verbose=False).reconstruct(images) for _ in range(2))
    assert torch.equal(first, second)
    other = train(replace(SMALL, seed=1), photographs, steps=4, verbose=False).reconstruct(images)
    assert not torch.equal(first, other)


def test_training_leaves_torchs_random_generator_alone(photographs):
    torch.manual_seed(5)
    train(SMALL, photographs, steps=1, verbose=False)
    got = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(got, torch.rand(3))


def test_the_cache_is_used_and_a_damaged_file_refused(photographs, tmp_path):
    first = train(SMALL, photographs, steps=3, cache=tmp_path, verbose=False)
    (kept,) = tmp_path.iterdir()
    assert kept.suffix == ".safetensors"
    changed = kept.stat().st_mtime_ns
    again = train(SMALL, photographs, steps=3, cache=tmp_path, verbose=False)
    assert kept.stat().st_mtime_ns == changed
    assert again.training == first.training
    images = photographs[0][None]
    assert torch.equal(again.reconstruct(images), first.reconstruct(images))
    # Other photographs, steps or specs are another training.
    train(SMALL, photographs[1:], steps=3, cache=tmp_path, verbose=False)
    train(SMALL, photographs, steps=2, cache=tmp_path, verbose=False)
    train(replace(SMALL, latent=4), photographs, steps=3, cache=tmp_path, verbose=False)
    assert len(list(tmp_path.iterdir())) == 4
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{kept.name}: damaged; remove it"):
        train(SMALL, photographs, steps=3, cache=tmp_path, verbose=False)


_KILLED = """
import sys, torch
from detector.synth.learned import LearnedSpec, train, training
training.SAVE_EVERY, training.BATCH, training.CROP = 2, 2, 32
photographs = [torch.load(sys.argv[1])]
spec = LearnedSpec("small", "autoencoder", "nearest", 4, width=16, latent=3)
torch.set_num_threads(1)
train(spec, photographs, steps=int(sys.argv[3]), cache=sys.argv[2], verbose=False)
"""


@pytest.mark.slow
def test_a_killed_training_goes_on_to_the_same_generator(photographs, tmp_path):
    file = tmp_path / "photograph.pt"
    torch.save(photographs[0], file)
    steps, caches = 40, [tmp_path / "whole", tmp_path / "killed"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def command(cache):
        return [sys.executable, "-c", _KILLED, str(file), str(cache), str(steps)]

    subprocess.run(command(caches[0]), check=True, env=environment)
    process = subprocess.Popen(command(caches[1]), env=environment)
    deadline = time.monotonic() + 120
    while not list(caches[1].glob("*.state")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = not list(caches[1].glob("*.safetensors"))
    subprocess.run(command(caches[1]), check=True, env=environment)
    whole, resumed = (load_file(next(cache.glob("*.safetensors"))) for cache in caches)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert not list(caches[1].glob("*.state"))
    assert killed, "the training ended before it could be killed"


@pytest.mark.parametrize(
    ("photographs_", "message"),
    [
        ([], "photographs must not be empty"),
        ([torch.zeros(3, 31, 80, dtype=torch.uint8)], "at least 32 pixels, got 31x80"),
    ],
)
def test_wrong_photographs(photographs_, message):
    with pytest.raises(ValueError, match=message):
        train(SMALL, photographs_, steps=1, verbose=False)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "fir", "transposed3", "transposed4", "pixelshuffle"])
def test_up_samplers_double_the_size(kind):
    assert up(kind, 6, 5)(torch.randn(2, 6, 7, 9)).shape == (2, 5, 14, 18)


def test_unknown_up_sampler():
    with pytest.raises(ValueError, match=r"up must be one of nearest, .*, got 'cubic'"):
        up("cubic", 3, 3)


def test_the_filter_is_binomial_with_and_without_stuffing(rng):
    """Against numpy's own convolution, of the zero-stuffed image and of the image."""
    image = rng.standard_normal((5, 6))
    stuffed = np.zeros((10, 12))
    stuffed[::2, ::2] = image
    for stuffing, pixels, gain in ((True, stuffed, 4), (False, image, 1)):
        taps = np.sqrt(gain) * np.array([1.0, 3.0, 3.0, 1.0]) / 8
        full = np.apply_along_axis(np.convolve, 0, pixels, taps)
        full = np.apply_along_axis(np.convolve, 1, full, taps)
        wanted = full[1:11, 1:13] if stuffing else full[2:6, 2:7]
        got = Fir(1, stuffing=stuffing).double()(torch.from_numpy(image)[None, None])[0, 0]
        torch.testing.assert_close(got, torch.from_numpy(wanted.copy()))


def test_a_residual_block_starts_as_the_identity_and_a_bias():
    x, block = torch.randn(2, 16, 5, 7), Residual(16, "group", "silu")
    torch.testing.assert_close(block(x), x + block.body[-1].bias[:, None, None])


def test_reconstruction_is_zero_for_equals_and_blind_to_finer_scales(rng):
    images = torch.from_numpy(rng.standard_normal((2, 3, 16, 16)))
    assert reconstruction(images, images) == 0
    # A chequerboard has no mean over 2x2 cells.
    board = torch.ones(16, 16).double()
    board[::2, ::2] = board[1::2, 1::2] = -1
    assert reconstruction(images + board, images) > 1
    assert reconstruction(images + board, images, finest=2) < 1e-12


def test_hinge_and_feature_matching(rng):
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.25])
    assert hinge(real, fake).item() == pytest.approx(0.25 + 0.625)
    features = [torch.from_numpy(rng.uniform(1, 2, (2, 3)))]
    assert feature_matching(features, features) == 0
    assert feature_matching([2 * features[0]], features).item() == pytest.approx(1, rel=1e-2)
