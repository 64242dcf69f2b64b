"""decode: every kind of file becomes the RGB that it shows, and every bad one is named."""

import io
import os
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from detector.data import MAX_PIXELS, FormatRefusedError, ImageError, TooManyPixelsError, decode, read_size

RNG = np.random.default_rng()


def random_pixels(height=7, width=5, channels=3):
    return RNG.integers(0, 256, (height, width, channels) if channels else (height, width), dtype=np.uint8)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels_of(tensor):
    return tensor.permute(1, 2, 0).numpy()


def png(width, height, depth, colour_type, rows):
    """A PNG made by hand, also of kinds that Pillow does not write."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_rgb_pixels_shape_and_layout():
    pixels = random_pixels(9, 6)
    image = decode(encode(Image.fromarray(pixels)))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 9, 6)
    assert image.stride() == (1, 18, 3)  # HWC in memory
    assert np.array_equal(pixels_of(image), pixels)
    image[:] = 0  # the buffer is the tensor's own


def test_all_sources_agree(tmp_path):
    data = encode(Image.fromarray(random_pixels()))
    path = tmp_path / "image.png"
    path.write_bytes(data)
    with open(path, "rb") as file:
        views = [decode(data), decode(path), decode(str(path)), decode(file), decode(io.BytesIO(data))]
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    with open(reading, "rb") as pipe:  # not seekable
        views.append(decode(pipe))
    assert all(torch.equal(view, views[0]) for view in views)


@pytest.mark.parametrize("source", [None, 3, 1.5, ["a.png"], np.zeros((2, 2))])
def test_wrong_kind_of_source(source):
    with pytest.raises(TypeError, match="source must be a path, bytes or a binary file object"):
        decode(source)


def test_grey_is_repeated():
    grey = random_pixels(channels=None)
    image = decode(encode(Image.fromarray(grey)))
    assert np.array_equal(pixels_of(image), np.repeat(grey[..., None], 3, 2))


def test_one_bit():
    bits = RNG.random((6, 9)) < 0.5
    image = decode(encode(Image.fromarray(bits)))
    assert np.array_equal(image[1].numpy(), bits * np.uint8(255))


def test_palette():
    colours, indices = random_pixels(1, 16)[0], RNG.integers(0, 16, (6, 7), dtype=np.uint8)
    image = Image.fromarray(indices, "L").convert("P")
    image.putpalette(colours.tobytes())
    image.putdata(indices.ravel().tolist())
    assert np.array_equal(pixels_of(decode(encode(image))), colours[indices])


def test_palette_with_a_transparent_colour_shows_white_there():
    colours, indices = random_pixels(1, 4)[0], RNG.integers(0, 4, (6, 7), dtype=np.uint8)
    image = Image.new("P", (7, 6))
    image.putpalette(colours.tobytes())
    image.putdata(indices.ravel().tolist())
    colours[2] = 255
    assert np.array_equal(pixels_of(decode(encode(image, transparency=2))), colours[indices])


def test_colour_key_transparency_shows_white_there():
    pixels = random_pixels()
    expected = np.where((pixels == pixels[3, 2]).all(-1, keepdims=True), 255, pixels)
    data = encode(Image.fromarray(pixels), transparency=tuple(pixels[3, 2].tolist()))
    assert np.array_equal(pixels_of(decode(data)), expected)


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_composited_over_white(channels):
    pixels = random_pixels(8, 8, channels)
    pixels[:2, :, -1], pixels[2:4, :, -1] = 255, 0
    alpha = pixels[..., -1:] / 255
    colour = np.repeat(pixels[..., :1], 3, 2) if channels == 2 else pixels[..., :3]
    expected = colour * alpha + 255 * (1 - alpha)
    result = pixels_of(decode(encode(Image.fromarray(pixels))))
    assert np.abs(result - expected).max() <= 1
    assert np.array_equal(result[:2], colour[:2])  # opaque pixels are untouched
    assert (result[2:4] == 255).all()


def test_cmyk():
    pixels = random_pixels(16, 16, 4)
    pixels[:] = pixels[:1, :1]  # flat, so that JPEG keeps it
    cyan, magenta, yellow, black = (pixels[0, 0] / 255).tolist()
    expected = [255 * (1 - ink) * (1 - black) for ink in (cyan, magenta, yellow)]
    for kind, options in (("TIFF", {}), ("JPEG", {"quality": 100, "subsampling": 0})):
        result = pixels_of(decode(encode(Image.fromarray(pixels, "CMYK"), kind, **options)))
        assert np.abs(result - expected).max() <= 4


def test_16_bit_keeps_the_upper_byte():
    samples = RNG.integers(0, 65536, (5, 6, 3), dtype=np.uint16)
    colour = png(6, 5, 16, 2, [row.astype(">u2").tobytes() for row in samples])
    assert np.array_equal(pixels_of(decode(colour)), samples >> 8)
    grey = png(6, 5, 16, 0, [row.astype(">u2").tobytes() for row in samples[..., 0]])
    assert np.array_equal(decode(grey)[2].numpy(), samples[..., 0] >> 8)
    tiff = encode(Image.fromarray(samples[..., 0].copy()), "TIFF")
    assert np.array_equal(decode(tiff)[0].numpy(), samples[..., 0] >> 8)
    pgm = b"P5 6 5 65535\n" + samples[..., 0].astype(">u2").tobytes()  # Pillow widens this one to 32 bits
    assert np.array_equal(decode(pgm)[0].numpy(), samples[..., 0] >> 8)


def test_samples_of_undefined_range_are_refused():
    wide = Image.fromarray(np.array([[0, 70000], [1, 2]], np.int32))
    with pytest.raises(ImageError, match="outside the 16-bit range"):
        decode(encode(wide, "TIFF"))
    with pytest.raises(ImageError, match="floating-point"):
        decode(encode(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation):
    pixels = random_pixels(4, 6)
    # What EXIF 2.32 says the stored rows and columns are, undone with NumPy alone.
    upright = {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: np.rot90(pixels, 2).transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(pixels_of(decode(encode(Image.fromarray(pixels), exif=exif))), upright)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_does_not_matter():
    pixels = random_pixels()
    data = encode(Image.fromarray(pixels), exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense")
    assert np.array_equal(pixels_of(decode(data)), pixels)


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert pixels_of(decode(data))[0, 0].tolist() == [255, 0, 0]


def bad_files():
    good = encode(Image.fromarray(random_pixels(64, 64)))
    jpeg = encode(Image.fromarray(random_pixels(64, 64)), "JPEG")
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 0xFF
    return {
        "empty": (b"", "is empty"),
        "text": (b"not an image at all", "is not an image"),
        "zeros": (bytes(1000), "is not an image"),
        "header only": (good[:33], "is not an image"),
        "truncated png": (good[: len(good) // 2], "is damaged"),
        "truncated jpeg": (jpeg[: len(jpeg) // 2], "is damaged"),
        "damaged png": (bytes(flipped), "is damaged"),
        "one pixel": (encode(Image.new("RGB", (1, 1))), "is 1x1 pixels"),
        "one row": (encode(Image.new("RGB", (9, 1))), "is 9x1 pixels"),
        "one column": (encode(Image.new("L", (1, 9))), "is 1x9 pixels"),
        "bomb": (png(50_000, 50_000, 8, 0, []), "too many pixels"),
        "small bomb": (png(2**14, MAX_PIXELS // 2**14 + 1, 8, 0, []), "too many pixels"),
    }


@pytest.mark.parametrize("case", bad_files())
def test_bad_files_are_named(tmp_path, case):
    data, reason = bad_files()[case]
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    for source, name in ((path, str(path)), (data, "<bytes>")):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a bomb is an error of ours, without Pillow's warning
            with pytest.raises(ImageError, match=reason) as caught:
                decode(source)
        assert caught.value.source == name
        assert str(caught.value) == f"{name}: {caught.value.reason}"
        assert "\n" not in str(caught.value)


def test_unreadable_paths_are_named(tmp_path):
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "missing.png")
    with pytest.raises(ImageError, match="directory"):
        decode(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ImageError, match="No such file"):
        decode(tmp_path / "link.png")


def test_errors_survive_pickling():
    error = pickle.loads(pickle.dumps(ImageError("a.png", "is empty")))
    assert (error.source, error.reason) == ("a.png", "is empty")
    assert isinstance(error, ValueError)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_no_file_of_random_bytes_escapes_as_another_error():
    good = {
        kind: encode(Image.fromarray(random_pixels(24, 24)), kind)
        for kind in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")
    }
    for data in good.values():
        for _ in range(30):
            broken = bytearray(data)
            for position in RNG.integers(0, len(data), 8):
                broken[position] = RNG.integers(256)
            try:
                image = decode(bytes(broken[: RNG.integers(1, len(data))]))
            except ImageError:
                continue
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3


def test_50_megapixels_pass(tmp_path):
    path = tmp_path / "large.png"
    path.write_bytes(png(8192, 6144, 1, 0, [b"\xff" * 1024] * 6144))
    image = decode(path)
    assert image.shape == (3, 6144, 8192)
    assert bool((image[:, ::999, ::999] == 255).all())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "PPM"])
def test_the_size_is_read_without_decoding(kind, rng):
    width, height = (int(side) for side in rng.integers(2, 60, 2))
    data = encode(Image.fromarray(random_pixels(height, width)), kind)
    assert read_size(data) == (width, height)
    if kind in ("PNG", "JPEG"):
        assert read_size(data[:-20] + 20 * b"\0") == (width, height)  # of damaged pixels too


@pytest.mark.parametrize(
    ("data", "error", "reason"),
    [
        (b"no image", FormatRefusedError, "is not an image in one of the formats"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", FormatRefusedError, "is a file of the format EPS"),
        (png(50_000, 50_000, 8, 0, []), TooManyPixelsError, "has too many pixels"),
        (png(2**14, MAX_PIXELS // 2**14 + 1, 8, 0, []), TooManyPixelsError, "has too many pixels"),
        (png(1, 9, 8, 0, []), ImageError, "each side needs at least 2"),
        (b"", ImageError, "is empty"),
    ],
)
def test_sizes_that_are_refused_as_by_decode(data, error, reason):
    reasons = []
    for read in (read_size, decode):
        with pytest.raises(ImageError, match=reason) as found:
            read(data)
        assert type(found.value) is error
        assert type(pickle.loads(pickle.dumps(found.value))) is error
        reasons.append(found.value.reason)
    assert reasons[0] == reasons[1]
