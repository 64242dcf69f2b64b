"""Exported files, against the model that they were written from and against each other's metadata."""

import json
import sys
import zipfile

import numpy as np
import pytest
import torch

from detector.data import Preprocessing
from detector.export import FORMATS
from detector.export.errors import ExportError
from detector.export.exported import load_exported, save_exported
from detector.export.metadata import FORMAT_VERSION
from detector.models import CNNDetector, NPRDetector
from detector.models.plain_periodicity import LEAST_SIDE
from npr_kernels import __version__
from tests.detector.models.original import randomise

pytestmark = pytest.mark.filterwarnings("ignore::npr_kernels.NPRFallbackWarning")

ENGINES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino"), "aoti": ()}
VARIANTS = [
    {},
    {"anchor": 3},
    {"mode": "mean", "luma": True},
    {"residual": "haar"},
    {"residual": "npr+haar", "pooling": "top-10%"},
    {"residual": "npr+haar", "periodicity": True},
]
SIZES = [(3, 64, 64), (1, 33, 47), (2, 2, 2), (1, 3, 5), (5, 40, 31), (1, 97, 130), (0, 32, 32)]
CHECKPOINT = "c0ffee" * 10 + "c0ff"


def needs(format):
    for package in ENGINES[format]:
        pytest.importorskip(package, reason=f"{package} is not installed")


def formats(*names):
    return pytest.mark.parametrize("format", names)


def random_model(**arguments):
    model = randomise(NPRDetector(Preprocessing(policy="centre", crop=32, std=(0.2, 0.3, 0.4)), **arguments)).eval()
    model.threshold = float(torch.rand(()) * 0.98 + 0.01)
    if model.periodicity is not None:
        torch.nn.init.normal_(model.periodicity.weight, std=0.05)
        torch.nn.init.normal_(model.periodicity.bias)
    return model


def random_images(*shape):
    """Noise of another contrast in every image, on light grey: what a residual is to take away."""
    contrast = torch.linspace(0.02, 0.5, max(shape[0], 1))[: shape[0]].view(-1, 1, 1, 1)
    return 255 - (torch.randint(0, 256, shape) * contrast).to(torch.uint8)


def save(model, path, format):
    save_exported(model, path, format, checkpoint=CHECKPOINT)
    return path


@torch.no_grad()
def check_logits(model, exported):
    """Against the model in float64, which is another computation, by the specification."""
    truth = model.double()
    # Coherence is the model's own float32, of logarithms that engines compute otherwise.
    tolerance = 1e-5 if model.periodicity is None else 5e-5
    for count, height, width in SIZES:
        print(f"{count} of {height}x{width}")
        images = random_images(count, 3, height, width)
        if model.periodicity is not None and min(height, width) < LEAST_SIDE:
            with pytest.raises(ValueError, match=f"H and W >= {LEAST_SIDE}"):
                exported(images)
            continue
        expected = truth(images / 255.0).flatten() if count else torch.empty(0, dtype=torch.float64)
        got = exported(images)
        torch.testing.assert_close(got.logits, expected, rtol=1e-5, atol=tolerance)
        torch.testing.assert_close(got.scores, expected.sigmoid(), rtol=0, atol=tolerance)
        channels_last = exported(images.to(memory_format=torch.channels_last))
        assert torch.equal(channels_last.logits, got.logits)
        strided = torch.cat([images, images], dim=3)[:, :, :, ::1][:, :, :, width:]
        assert torch.equal(exported(strided).logits, got.logits)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@formats("onnx", "openvino")
def test_logits_are_the_models(format, variant, tmp_path, rng):
    needs(format)
    model = random_model(**variant)
    check_logits(model, load_exported(save(model, tmp_path / f"m{FORMATS[format]}", format), threads=1))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [{}, {"residual": "npr+haar", "periodicity": True}], ids=str)
def test_compiled_logits_are_the_models(variant, tmp_path, rng):
    """And a compiled archive says what it is, and is refused where it is another machine's or another version's."""
    model = random_model(**variant)
    path = save(model, tmp_path / "m.pt2", "aoti")
    check_logits(model, load_exported(path, threads=1))
    if variant:
        return
    check_metadata(model, load_exported(path))
    for name, value, message in (
        ("machine", "an abacus", "compiled for an abacus, and this is"),
        ("format_version", "99", f"format version 99, this release reads {FORMAT_VERSION}"),
    ):
        other = tmp_path / "other.pt2"
        with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
            for entry in source.infolist():
                content = source.read(entry)
                if entry.filename.endswith("_metadata.json"):
                    content = json.dumps(json.loads(content) | {name: value}).encode()
                target.writestr(entry, content)
        assert_refused(other, message)


def check_metadata(model, exported):
    assert exported.preprocessing == model.preprocessing
    assert exported.threshold == model.threshold
    found = exported.metadata
    assert found.architecture == {"name": "NPRDetector", **model.architecture}
    assert found.calibration == model.calibration
    assert (found.checkpoint, found.npr_kernels) == (CHECKPOINT, __version__)


@formats("onnx", "openvino")
def test_files_say_what_they_are(format, tmp_path, rng):
    needs(format)
    model = random_model()
    model.calibration = {"llr": None, "reals": [{"group": 'a "quoted" <name> & ünïcode'}], "alpha": 0.01}
    check_metadata(model, load_exported(save(model, tmp_path / f"m{FORMATS[format]}", format)))


def assert_refused(path, message, error=ExportError):
    with pytest.raises(error) as caught:
        load_exported(path)
    text = " ".join(str(caught.value).split())
    assert message in text
    assert str(path) in text
    assert "\n" not in str(caught.value)


@formats("onnx", "openvino")
def test_other_versions_and_foreign_files_are_refused(format, tmp_path, rng, monkeypatch):
    needs(format)
    model, path = random_model(), tmp_path / f"m{FORMATS[format]}"
    monkeypatch.setattr("detector.export.metadata.FORMAT_VERSION", FORMAT_VERSION + 1)
    save(model, path, format)
    monkeypatch.undo()
    assert_refused(path, f"has format version {FORMAT_VERSION + 1}, this release reads {FORMAT_VERSION}")
    for values, message in (
        ({}, "not written by npr export"),
        ({"format_version": "1"}, "not written by npr export"),
        (describe_but(model, threshold="1.5"), "its metadata are damaged (threshold must be"),
        (describe_but(model, preprocessing="{"), "its metadata are damaged"),
        (describe_but(model, checkpoint=None), "its metadata are damaged (no 'checkpoint')"),
    ):
        monkeypatch.setattr("detector.export.exported.describe", lambda *_, values=values: values)
        save(model, path, format)
        assert_refused(path, message)


def describe_but(model, **changes):
    from detector.export.metadata import describe

    values = describe(model, CHECKPOINT) | changes
    return {name: value for name, value in values.items() if value is not None}


@formats("onnx", "openvino", "aoti")
@pytest.mark.parametrize(
    "content", [b"", b"a photograph of a cat", b"<?xml version='1.0'?><cat/>", b"PK\x03\x04"], ids=str
)
def test_damaged_files_are_refused(format, content, tmp_path):
    needs(format)
    path = tmp_path / f"m{FORMATS[format]}"
    path.write_bytes(content)
    path.with_suffix(".bin").write_bytes(b"")
    assert_refused(path, "cannot read it")


@formats("onnx", "openvino")
def test_cut_files_are_refused(format, tmp_path, rng):
    needs(format)
    path = save(random_model(), tmp_path / f"m{FORMATS[format]}", format)
    content = path.read_bytes()
    path.write_bytes(content[: int(rng.integers(100, len(content)))])
    assert_refused(path, "cannot read it")


def test_weights_of_another_export_are_refused(tmp_path, rng):
    needs("openvino")
    one, two = (save(random_model(), tmp_path / f"{name}.xml", "openvino") for name in "ab")
    one.with_suffix(".bin").write_bytes(two.with_suffix(".bin").read_bytes())
    assert_refused(one, "a.bin is not the one that it was written with")
    one.with_suffix(".bin").unlink()
    assert_refused(one, "its weights, a.bin, are not beside it")


def test_names_and_missing_files(tmp_path):
    assert_refused(tmp_path / "m.tflite", "not named like an exported detector (.onnx, .xml, .pt2)")
    assert_refused(tmp_path / "m.onnx", "m.onnx", FileNotFoundError)
    with pytest.raises(ValueError, match=r"files of the format openvino end with \.xml"):
        save(NPRDetector(), tmp_path / "m.onnx", "openvino")
    with pytest.raises(ExportError, match="only the NPRDetector is exported, not the CNNDetector"):
        save(CNNDetector(), tmp_path / "m.onnx", "onnx")
    with pytest.raises(ExportError, match="cannot be exported: mode 'max' is no plain convolution"):
        save(NPRDetector(mode="max"), tmp_path / "m.onnx", "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("format", "package", "extra"),
    [("onnx", "onnx", "export"), ("onnx", "onnxruntime", "export"), ("openvino", "openvino", "openvino")],
)
def test_a_missing_engine_is_one_line(format, package, extra, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    path = tmp_path / f"m{FORMATS[format]}"
    message = rf"{package}, which is not here \(.*\): pip install 'npr-kernels\[{extra}\]'$"
    if package == "onnxruntime":
        path.write_bytes(b"a graph")
        with pytest.raises(ExportError, match=message):
            load_exported(path)
    else:
        with pytest.raises(ExportError, match=message):
            save(NPRDetector(), path, format)
        assert not path.exists()


def test_a_failing_compiler_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.export.export", lambda *_, **__: 1 / 0)
    with pytest.raises(ExportError, match=r"AOTInductor could not compile the detector \(division by zero\)"):
        save(NPRDetector(), tmp_path / "m.pt2", "aoti")
    assert not list(tmp_path.iterdir())


@formats("onnx", "openvino")
def test_a_failed_write_leaves_the_old_file(format, tmp_path, rng, monkeypatch):
    needs(format)
    model = random_model()
    path = save(model, tmp_path / f"m{FORMATS[format]}", format)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("detector.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(random_model(), path, format)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("images", "error"),
    [
        (np.zeros((1, 3, 4, 4), np.uint8), TypeError),
        (torch.zeros(1, 3, 4, 4), TypeError),
        (torch.zeros(3, 4, 4, dtype=torch.uint8), ValueError),
        (torch.zeros(1, 1, 4, 4, dtype=torch.uint8), ValueError),
        (torch.zeros(1, 3, 1, 4, dtype=torch.uint8), ValueError),
    ],
)
def test_wrong_images_are_refused(exported, images, error):
    with pytest.raises(error, match=r"^images must be "):
        exported(images)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    needs("onnx")
    return load_exported(save(random_model(), tmp_path_factory.mktemp("export") / "m.onnx", "onnx"))


def test_the_graph_is_plain(tmp_path, rng):
    """A dozen kinds of standard operators, free sizes, the state dict's names."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    kinds = {}
    for residual in ("npr", "haar"):
        graph = onnx.load(save(random_model(residual=residual), tmp_path / "m.onnx", "onnx")).graph
        kinds[residual] = {node.op_type for node in graph.node}
        assert sum(node.op_type == "Conv" for node in graph.node) == 24
        sizes = [dimension.dim_param or dimension.dim_value for dimension in graph.input[0].type.tensor_type.shape.dim]
        assert sizes == ["batch", 3, "height", "width"]
        assert [output.name for output in graph.output] == ["logit", "score"]
        assert "layer2.3.conv3.weight" in {value.name for value in graph.initializer}
    plain = {"Cast", "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Sigmoid"}
    assert kinds["npr"] == plain
    assert kinds["haar"] == plain | {"Shape", "Div", "Mul", "Slice"}
