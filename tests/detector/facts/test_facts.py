"""read_facts: every fact against what was written, and hostile files that must neither raise nor take long."""

import io
import json
import os
import struct
import time
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from detector.facts import Facts, as_lines, read_compression, read_facts
from detector.facts.source import MAX_PIECE, clean
from detector.facts.xmp import TERMS
from tests.detector.facts.files import (
    PARAMETERS,
    TRAINED,
    XMP_HEAD,
    app11,
    encode,
    international_text,
    manifest_store,
    packet,
    picture,
    png_chunk,
    segment,
    with_chunks,
    with_riff,
    with_segments,
)

needs_webp = pytest.mark.skipif(not features.check("webp"), reason="this Pillow has no WebP")


@pytest.fixture
def facts_of(tmp_path):
    """The facts of a file of these bytes, whose name says nothing."""

    def read(data):
        path = tmp_path / "file.bin"
        path.write_bytes(data)
        facts = read_facts(path)
        assert read_facts(bytes(data)) == facts  # in memory likewise
        return facts

    return read


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        ("PNG", "L"), ("PNG", "LA"), ("PNG", "RGB"), ("PNG", "RGBA"),
        ("JPEG", "L"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("BMP", "RGB"), ("TIFF", "RGB"), ("PPM", "L"), ("GIF", "L"),
    ],
)  # fmt: skip
def test_format_size_and_mode(format, mode, rng, facts_of):
    size = tuple(rng.integers(1, 300, 2))
    data = encode(picture(rng, size, mode), format)
    found = facts_of(data)
    if format == "GIF":  # a palette of few greys is stored as one of colours
        mode = Image.open(_file(data)).mode
    assert (found.format, found.mode, found.bytes) == (format, mode, len(data))
    assert (found.height, found.width) == size
    assert found.aspect == pytest.approx(size[1] / size[0])
    assert found.problems == ()


def test_modes_that_numpy_lacks(facts_of):
    assert facts_of(encode(Image.new("1", (9, 5)), "PNG")).mode == "1"
    palette = facts_of(encode(Image.new("RGB", (9, 5)).quantize(7), "PNG"))
    assert palette.mode == "P"
    deep = facts_of(encode(Image.new("I;16", (9, 5)), "PNG"))
    assert (deep.mode, deep.depth) == ("L", 16)


@needs_webp
@pytest.mark.parametrize("lossless", [True, False])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
@pytest.mark.parametrize("extended", [True, False])
def test_webp(lossless, mode, extended, rng, facts_of):
    size = tuple(rng.integers(1, 300, 2))
    options = {"exif": b"Exif\0\0odd"} if extended else {}
    found = facts_of(encode(picture(rng, size, mode), "WEBP", lossless=lossless, **options))
    assert (found.format, found.webp, found.mode) == ("WebP", "lossless" if lossless else "lossy", mode)
    assert (found.height, found.width) == size


@needs_webp
def test_animated_webp(rng, facts_of):
    frames = [picture(rng) for _ in range(2)]
    found = facts_of(encode(frames[0], "WEBP", lossless=True, save_all=True, append_images=frames[1:]))
    assert (found.webp, found.height, found.width) == ("lossless", 33, 47)


def test_quality_of_libjpeg_is_exact(rng, facts_of):
    for mode in ("RGB", "L"):
        image = picture(rng, mode=mode)
        found = [facts_of(encode(image, "JPEG", quality=quality)).jpeg for quality in range(1, 101)]
        assert [jpeg.quality for jpeg in found] == list(range(1, 101))
        assert all(jpeg.exact for jpeg in found)
        assert len({jpeg.tables for jpeg in found}) == 100


def test_quality_of_other_tables_is_the_nearest(rng, facts_of):
    """Divisors of libjpeg's tables moved a little: the quality stays, and is not called exact."""
    image = picture(rng)
    for quality in rng.integers(30, 90, 8).tolist():
        plain = Image.open(_file(encode(image, "JPEG", quality=quality))).quantization
        luminance, chrominance = ([value + int(rng.integers(0, 2)) for value in plain[i]] for i in (0, 1))
        luminance[0] = plain[0][0] + 1
        jpeg = facts_of(encode(image, "JPEG", qtables=[luminance, chrominance])).jpeg
        assert not jpeg.exact
        assert abs(jpeg.quality - quality) <= 3
        assert jpeg.tables != facts_of(encode(image, "JPEG", quality=quality)).jpeg.tables
    # The luminance table alone is not enough.
    jpeg = facts_of(encode(image, "JPEG", qtables=[plain[0], [7] * 64])).jpeg
    assert (jpeg.quality, jpeg.exact) == (quality, False)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [True, False])
def test_subsampling_and_progression(subsampling, progressive, rng, facts_of):
    jpeg = facts_of(encode(picture(rng), "JPEG", subsampling=subsampling, progressive=progressive)).jpeg
    assert (jpeg.subsampling, jpeg.progressive) == (subsampling, progressive)
    assert facts_of(encode(picture(rng, mode="L"), "JPEG")).jpeg.subsampling is None


def test_odd_sampling_factors(rng, facts_of):
    data = encode(picture(rng), "JPEG", subsampling="4:4:4")
    at = data.index(b"\xff\xc0")
    for factors, expected in (((0x12, 0x11, 0x11), "4:4:0"), ((0x21, 0x12, 0x11), "2x1,1x2,1x1"), ((0, 0, 0), None)):
        odd = bytearray(data)
        odd[at + 11 : at + 20 : 3] = factors
        found = facts_of(bytes(odd)).jpeg.subsampling
        assert found == (expected or "0x0,0x0,0x0")


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", pytest.param("WEBP", marks=needs_webp)])
def test_colour_profile(format, rng, facts_of):
    for profile in (ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")):
        data = ImageCms.ImageCmsProfile(profile).tobytes()
        expected = ImageCms.getProfileDescription(_file(data)).strip()
        assert facts_of(encode(picture(rng), format, icc_profile=data)).icc_profile == expected
    found = facts_of(encode(picture(rng), format, icc_profile=b"no profile" * 20))
    assert found.icc_profile is None
    assert "the colour profile is no profile" in found.problems


def test_colour_profile_in_pieces(rng, facts_of):
    """A profile longer than a segment, its pieces out of order; and a description of the older kind."""
    name = b"desc" + bytes(4) + struct.pack(">I", 8) + b"My Name\0"
    tags = struct.pack(">I", 1) + b"desc" + struct.pack(">II", 70_000, len(name))
    data = (bytes(36) + b"acsp").ljust(128, b"\0") + tags
    data = data.ljust(70_000, b"\0") + name
    pieces = [(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 2]) + data[60_000 * i :][:60_000]) for i in (1, 0)]
    assert facts_of(with_segments(encode(picture(rng), "JPEG"), *pieces)).icc_profile == "My Name"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", pytest.param("WEBP", marks=needs_webp)])
def test_exif(format, rng, facts_of):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0131] = "Canon", "EOS \x1b[31m5D", "GIMP 2.10"
    exif[0x0132], exif[0x0112] = "2020:01:02 03:04:05", 6
    image = picture(rng)
    found = facts_of(encode(image, format, exif=exif))
    assert (found.exif.make, found.exif.model, found.exif.software) == ("Canon", "EOS [31m5D", "GIMP 2.10")
    assert (found.exif.date, found.exif.orientation) == ("2020:01:02 03:04:05", 6)
    assert (found.width, found.height) == (47, 33)
    exif.get_ifd(0x8769)[0x9003] = "1999:09:09 09:09:09"
    if format != "TIFF":
        assert facts_of(encode(image, format, exif=exif)).exif.date == "1999:09:09 09:09:09"
    assert facts_of(encode(image, "PNG")).exif is None


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("code", ["utf-16-be", "utf-16-le", "ascii", "nothing"])
def test_user_comment(order, code, rng, facts_of):
    """Of JPEG and WebP, in each byte order and each way that writers state, or misstate, their characters."""
    if code.startswith("utf"):
        comment = b"UNICODE\0" + PARAMETERS.encode(code)
    else:
        comment = (b"ASCII\0\0\0" if code == "ascii" else bytes(8)) + PARAMETERS.encode()
    pack = "<" if order == "little" else ">"
    head = (b"II*\0" if order == "little" else b"MM\0*") + struct.pack(pack + "I", 8)
    main = struct.pack(pack + "HHHIII", 1, 0x8769, 4, 1, 26, 0)
    inner = struct.pack(pack + "HHHIII", 1, 0x9286, 7, len(comment), 44, 0)
    data = head + main + inner + comment
    jpeg = with_segments(encode(picture(rng), "JPEG"), (0xE1, b"Exif\0\0" + data))
    files = [jpeg, with_chunks(encode(picture(rng), "PNG"), (b"eXIf", data))]
    if features.check("webp"):
        files.append(encode(picture(rng), "WEBP", exif=data))
    for file in files:
        (found,) = facts_of(file).generators
        assert (found.tool, found.place) == ("Stable Diffusion web UI", "EXIF UserComment")
        assert found.text.startswith("a cat, oil Negative prompt: dog Steps: 20")


@pytest.mark.parametrize(
    "properties",
    [
        {"attributes": f'iptc:DigitalSourceType="{TRAINED}"'},
        {"properties": f"<iptc:DigitalSourceType>{TRAINED}</iptc:DigitalSourceType>"},
        {"properties": f'<iptc:DigitalSourceType r:resource="{TRAINED}"/>'},
        {"properties": f"<iptc:DigitalSourceType><r:Bag><r:li>{TRAINED}</r:li></r:Bag></iptc:DigitalSourceType>"},
        {"properties": f"<iptc:DigitalSourcefileType>{TRAINED}</iptc:DigitalSourcefileType>"},
    ],
)
def test_digital_source_type(properties, rng, facts_of):
    data = packet(**properties)
    image = picture(rng)
    files = [
        with_segments(encode(image, "JPEG"), (0xE1, XMP_HEAD + data)),
        with_chunks(encode(image, "PNG"), (b"iTXt", international_text("XML:com.adobe.xmp", data))),
        with_chunks(encode(image, "PNG"), (b"iTXt", international_text("XML:com.adobe.xmp", data, True))),
        encode(image, "TIFF", tiffinfo={700: data}),
    ]
    if features.check("webp"):
        files.append(encode(image, "WEBP", xmp=data))
    for file in files:
        found = facts_of(file)
        assert found.xmp.digital_source_type == TRAINED
        assert found.xmp.term == "trainedAlgorithmicMedia"
        assert found.problems == ()
        assert any(TERMS["trainedAlgorithmicMedia"] in line for line in as_lines(found))


def test_other_fields_of_xmp(rng, facts_of):
    data = packet("<photoshop:Credit>Made with AI</photoshop:Credit>", 'xmp:CreatorTool="Fire &amp; Fly"')
    found = facts_of(with_segments(encode(picture(rng), "JPEG"), (0xE1, XMP_HEAD + data)))
    assert (found.xmp.creator_tool, found.xmp.credit) == ("Fire & Fly", "Made with AI")
    assert found.xmp.digital_source_type is found.xmp.term is None
    # Another namespace's property of that name, however it is called, is another property.
    data = packet(attributes=f'DigitalSourceType="{TRAINED}" xmp:DigitalSourceType="{TRAINED}"')
    assert (
        facts_of(with_segments(encode(picture(rng), "JPEG"), (0xE1, XMP_HEAD + data))).xmp.digital_source_type is None
    )


def test_broken_xmp_keeps_what_came_before(rng, facts_of):
    data = packet(f"<iptc:DigitalSourceType>{TRAINED}</iptc:DigitalSourceType><xmp:broken>")
    found = facts_of(with_segments(encode(picture(rng), "JPEG"), (0xE1, XMP_HEAD + data)))
    assert found.xmp.term == "trainedAlgorithmicMedia"
    assert "XMP is no XML" in found.problems[0]


def test_xmp_that_would_explode(rng, facts_of):
    entities = "".join(f'<!ENTITY e{i + 1} "{f"&e{i};" * 10}">' for i in range(12))
    lines = f'<!DOCTYPE x [<!ENTITY e0 "boom">{entities}]><x>&e12;</x>'.encode()
    deep = b"<a>" * 1_000_000
    for data, message in ((lines, "document type"), (deep, "elements deep")):
        start = time.process_time()
        found = facts_of(with_chunks(encode(picture(rng), "PNG"), (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + data)))
        assert message in " ".join(found.problems)
        assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("tool", "texts", "place"),
    [
        ("Stable Diffusion web UI", {"parameters": PARAMETERS}, "parameters"),
        ("ComfyUI", {"prompt": '{"3": {"class_type": "KSampler"}}', "workflow": '{"nodes": []}'}, "prompt"),
        ("InvokeAI", {"invokeai_metadata": '{"positive_prompt": "cat"}'}, "invokeai_metadata"),
        ("NovelAI", {"Software": "NovelAI", "Comment": '{"steps": 28}', "Source": "V4"}, "Comment"),
    ],
)
@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iTXt compressed"])
def test_texts_of_generators(tool, texts, place, kind, rng, facts_of):
    chunks = []
    for keyword, text in texts.items():
        if kind == "tEXt":
            chunks.append((b"tEXt", keyword.encode() + b"\0" + text.encode()))
        elif kind == "zTXt":
            chunks.append((b"zTXt", keyword.encode() + b"\0\0" + zlib.compress(text.encode())))
        else:
            chunks.append((b"iTXt", international_text(keyword, text, kind != "iTXt")))
    found = facts_of(with_chunks(encode(picture(rng), "PNG"), *chunks))
    (trace,) = found.generators
    assert (trace.tool, trace.place) == (tool, place)
    assert trace.text == " ".join(texts[place].split())
    assert found.texts == tuple(texts)
    assert any(tool in line for line in as_lines(found))


@pytest.mark.parametrize("piece", ["Steps: 1, ", "Steps: 1, a: b, ", "Steps: 1, \n", "Steps: 1, " + "a" * 150 + "\n"])
def test_text_that_nearly_is_a_generators_takes_no_time(piece, rng, facts_of):
    text = (piece * (2**22 // len(piece))).encode()
    start = time.process_time()
    found = facts_of(with_chunks(encode(picture(rng), "PNG"), (b"zTXt", b"parameters\0\0" + zlib.compress(text, 1))))
    assert found.generators == ()
    assert time.process_time() - start < 5


def test_formats_that_are_not_decoded_are_not_opened(rng, facts_of, monkeypatch):
    Image.init()  # or OPEN has what others needed before
    monkeypatch.setitem(Image.OPEN, "EPS", (lambda *_: pytest.fail("opened"), Image.OPEN["EPS"][1]))
    found = facts_of(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert found.format is None
    assert "EPS, which is not decoded" in " ".join(found.problems)


def test_texts_after_the_pixels(rng, facts_of):
    png = encode(picture(rng), "PNG")
    late = png[:-12] + png_chunk(b"tEXt", b"parameters\0" + PARAMETERS.encode()) + png[-12:]
    assert facts_of(late).generators[0].tool == "Stable Diffusion web UI"


def test_comfy_in_exif_and_comments_of_jpeg(rng, facts_of):
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = 'prompt:{"1": {}}', 'workflow:{"nodes": []}'
    for format in ["JPEG", "WEBP"] if features.check("webp") else ["JPEG"]:
        (trace,) = facts_of(encode(picture(rng), format, exif=exif)).generators
        assert trace.tool == "ComfyUI"
    found = facts_of(encode(picture(rng), "JPEG", comment=PARAMETERS))
    assert (found.generators[0].place, found.texts) == ("comment", ("comment",))


@pytest.mark.parametrize(
    "texts",
    [
        {"parameters": "of the experiment"},
        {"prompt": "Enter your name"},
        {"Software": "Adobe ImageReady"},
        {"Comment": PARAMETERS[:20]},
        {"Description": "Steps: 3, then a rest"},
    ],
)
def test_other_texts_are_no_generators(texts, rng, facts_of):
    chunks = [(b"tEXt", keyword.encode() + b"\0" + text.encode()) for keyword, text in texts.items()]
    found = facts_of(with_chunks(encode(picture(rng), "PNG"), *chunks))
    assert found.generators == ()
    assert found.texts == tuple(texts)


def test_c2pa_is_there(rng, facts_of):
    box = manifest_store()
    files = {
        "JPEG": with_segments(encode(picture(rng), "JPEG"), (0xEB, app11(box)), (0xEB, app11(b"more"))),
        "PNG": with_chunks(encode(picture(rng), "PNG"), (b"caBX", box)),
        "TIFF": encode(picture(rng), "TIFF", tiffinfo={52545: box}),
    }
    if features.check("webp"):
        files["WebP"] = with_riff(encode(picture(rng), "WEBP"), (b"C2PA", box))
    for format, data in files.items():
        found = facts_of(data)
        assert (found.format, found.problems) == (format, ())
        assert found.c2pa is not None
        assert found.c2pa.note  # neither without the package nor with it can this box be read


def test_other_boxes_are_not_c2pa(rng, facts_of):
    other = manifest_store(b"jp2k")
    assert facts_of(with_segments(encode(picture(rng), "JPEG"), (0xEB, app11(other)))).c2pa is None
    assert facts_of(with_segments(encode(picture(rng), "JPEG"), (0xEB, b"HDR_RI ver=11"))).c2pa is None
    assert facts_of(with_chunks(encode(picture(rng), "PNG"), (b"caBX", other))).c2pa is None


def test_every_prefix_and_damage_of_a_full_file(rng, facts_of):
    """Random cuts and random bytes: nothing raises, and JSON and lines can always be made."""
    exif = Image.Exif()
    exif[0x010F], exif[0x0131] = "Make", "Software"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + PARAMETERS.encode("utf-16-be")
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = picture(rng, (9, 7))
    xmp = packet(attributes=f'iptc:DigitalSourceType="{TRAINED}"')
    full = [
        with_segments(
            encode(image, "JPEG", exif=exif, icc_profile=icc, comment="hello"),
            (0xE1, XMP_HEAD + xmp), (0xEB, app11(manifest_store())),
        ),
        with_chunks(
            encode(image, "PNG", exif=exif, icc_profile=icc),
            (b"iTXt", international_text("XML:com.adobe.xmp", xmp, True)),
            (b"zTXt", b"parameters\0\0" + zlib.compress(PARAMETERS.encode())), (b"caBX", manifest_store()),
        ),
        encode(image, "TIFF", exif=exif, icc_profile=icc, tiffinfo={700: xmp}),
        encode(image, "GIF"), encode(image, "BMP"),
    ]  # fmt: skip
    if features.check("webp"):
        full.append(with_riff(encode(image, "WEBP", exif=exif, icc_profile=icc, xmp=xmp), (b"C2PA", manifest_store())))
    for data in full:
        assert facts_of(data).problems == ()
        for _ in range(60):
            damaged = bytearray(data)
            for at in rng.integers(0, len(data), rng.integers(1, 6)):
                damaged[at] = rng.integers(256)
            cut = rng.integers(0, len(data) + 1) if rng.random() < 0.5 else len(data)
            found = facts_of(bytes(damaged[:cut]))
            json.dumps(found.to_dict(), allow_nan=False)
            as_lines(found)


def test_a_broken_segment_keeps_what_came_before(rng, facts_of):
    data = encode(picture(rng), "JPEG", quality=81)
    scan = data.index(b"\xff\xda")
    found = facts_of(data[:scan] + b"\xff\xe5\xff\xff" + data[scan:][:8])
    assert (found.jpeg.quality, found.jpeg.exact) == (81, True)
    assert found.problems == ("JPEG ends early",)
    found = facts_of(data[:scan] + b"garbage")
    assert found.jpeg.quality == 81
    assert f"JPEG has no marker at byte {scan}" in found.problems


@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"iCCP"])
def test_bombs(kind, rng, facts_of):
    """Chunks that would inflate to gigabytes together: told, bounded in time, and the rest is read."""
    bomb = zlib.compress(bytes(2**26), 9)
    data = {
        b"zTXt": b"bomb\0\0" + bomb,
        b"iTXt": b"bomb\0\1\0\0\0" + bomb,
        b"iCCP": b"bomb\0\0" + bomb,
    }[kind]
    start = time.process_time()
    found = facts_of(
        with_chunks(
            encode(picture(rng), "PNG"), (b"tEXt", b"parameters\0" + PARAMETERS.encode()), *[(kind, data)] * 200
        )
    )
    assert time.process_time() - start < 5
    assert f"chunk {kind.decode()} inflates to more than {MAX_PIECE} bytes" in found.problems
    assert found.generators
    assert (found.height, found.width) == (33, 47)


def test_many_parts_and_large_parts(rng, facts_of):
    png = encode(picture(rng), "PNG")
    start = time.process_time()
    many = facts_of(png[:33] + png_chunk(b"teST", b"") * 200_000 + png[33:])
    assert "PNG has more than 131072 chunks" in many.problems
    large = facts_of(with_chunks(png, (b"tEXt", b"a\0" + b"x" * (MAX_PIECE + 1)), (b"tEXt", b"b\0small")))
    assert "has a piece of" in large.problems[0]
    assert large.texts == ("b",)
    repeated = facts_of(b"\xff\xd8" + segment(0xFE, b"x" * 65_000) * 600)
    assert "more than" in " ".join(repeated.problems)
    assert time.process_time() - start < 10


def test_a_directory_that_points_at_itself(rng, facts_of):
    for pointer in (8, 26, 0xFFFFFFFF, 0):
        data = b"II*\0" + struct.pack("<IHHHIII", 8, 1, 0x8769, 4, 1, pointer, 0)
        found = facts_of(with_segments(encode(picture(rng), "JPEG"), (0xE1, b"Exif\0\0" + data)))
        assert found.exif is not None
    loop = b"MM\0*" + struct.pack(">I", 0xFFFFFF00)
    found = facts_of(with_segments(encode(picture(rng), "JPEG"), (0xE1, b"Exif\0\0" + loop)))
    assert (found.exif, found.problems) == (None, ("EXIF ends early",))


def test_what_is_no_image(tmp_path, facts_of):
    assert facts_of(b"").problems
    (problem,) = facts_of(b"hello").problems
    assert problem.startswith("the header is not an image in one of the formats JPEG, PNG")
    assert facts_of(b"hello").bytes == 5
    assert "cannot be read (No such file" in read_facts(tmp_path / "none").problems[0]
    assert read_facts("a\0b").problems
    assert read_facts(tmp_path).problems == ("it is no regular file",)
    os.mkfifo(tmp_path / "pipe")
    assert read_facts(tmp_path / "pipe").problems == ("it is no regular file",)


def test_text_is_made_safe():
    assert clean("a\x1b[2Jb\u202ec\r\n  d\0") == "a [2Jb c d"
    assert clean("x" * 200) == "x" * 200
    assert clean("x" * 201) == "x" * 199 + "…"
    assert clean(" " * 10_000 + "hidden") == "…"


def test_to_dict(rng, facts_of):
    values = facts_of(encode(picture(rng), "JPEG", quality=50)).to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["jpeg"] == {
        "quality": 50, "exact": True, "tables": values["jpeg"]["tables"], "subsampling": "4:2:0", "progressive": False,
    }  # fmt: skip
    assert values["aspect"] == pytest.approx(47 / 33)
    assert set(values) == {*Facts.__dataclass_fields__, "aspect"}


def _file(data):
    import io

    return io.BytesIO(data)


def test_reading_needs_neither_torch_nor_numpy():
    import subprocess
    import sys

    code = "import sys, detector.facts; sys.exit(bool({'torch', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_tables_are_those_of_libjpeg(rng):
    """Row by row, through Pillow, which undoes the zigzag order."""
    from detector.facts.quantisation import ZIGZAG, ijg_table

    quality = int(rng.integers(1, 101))
    tables = Image.open(_file(encode(picture(rng), "JPEG", quality=quality))).quantization
    for number, chrominance in ((0, False), (1, True)):
        rows = np.empty(64, int)
        rows[list(ZIGZAG)] = ijg_table(quality, chrominance=chrominance)
        assert rows.tolist() == list(tables[number])


def test_compression_alone(rng):
    """As the facts of the whole file tell it; of damaged files what comes first, and of others nothing."""
    data = encode(picture(rng), "JPEG", quality=(quality := int(rng.integers(30, 96))))
    found = read_compression(io.BytesIO(data))
    assert (found.quality, found.exact) == (quality, True)
    scan = data.index(b"\xff\xda")
    assert read_compression(io.BytesIO(data[:scan])) == found
    for length in range(0, scan, 7):
        assert read_compression(io.BytesIO(data[:length])) in (None, found)
    for other in (encode(picture(rng), "PNG"), b"", b"\xff\xd8\xff", rng.bytes(300)):
        assert read_compression(io.BytesIO(other)) is None
