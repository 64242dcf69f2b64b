"""What is measured: kinds of work, on how many images of which size, by which implementations."""

from __future__ import annotations

from dataclasses import dataclass, replace

KINDS = ("op", "model", "pipeline", "train")

OURS_AND_TORCH = ("npr", "eager", "channels_last", "compile")
ENGINES = ("onnxruntime", "onnxruntime-int8", "openvino", "openvino-int8")


@dataclass(frozen=True)
class Case:
    """Some work on some images.

    Attributes:
        kind: one of KINDS.
        work: of an op "npr_conv2d: forward" and so on; otherwise what the kind is called in full.
        batch: images of a call, or files of the pipeline.
        size: their height and width in pixels.
        implementations: what does it, ours first.
    """

    kind: str
    work: str
    batch: int
    size: int
    implementations: tuple[str, ...]

    @property
    def title(self) -> str:
        things = "files" if self.kind == "pipeline" else "images" if self.batch > 1 else "image"
        return f"{self.work}, {self.batch} {things} of {self.size}x{self.size}"


def op(work: str, batch: int, size: int) -> Case:
    return Case("op", work, batch, size, OURS_AND_TORCH)


def model(batch: int, size: int) -> Case:
    return Case("model", "model in inference", batch, size, ("npr", "npr-int8", *OURS_AND_TORCH[1:], *ENGINES))


def pipeline(files: int, size: int) -> Case:
    return Case("pipeline", "files to verdicts", files, size, (*OURS_AND_TORCH, *ENGINES))


def train(batch: int, size: int) -> Case:
    return Case("train", "training step", batch, size, OURS_AND_TORCH)


FORWARD, BACKWARD = "npr_conv2d: forward", "npr_conv2d: forward + weight gradient"
STEM, STEM_TRAINING = "npr_stem: inference", "npr_stem: training, forward + backward"

#: Largest batches have 4 megapixels, with which a layer-by-layer network takes about 2 GB.
FULL = (
    *(op(work, 16, 256) for work in (FORWARD, BACKWARD, STEM, STEM_TRAINING)),
    *(op(STEM, batch, size) for batch, size in ((1, 256), (64, 64), (4, 1024))),
    *(model(batch, 256) for batch in (1, 4, 16, 64)),
    *(model(4, size) for size in (64, 128, 512, 1024)),
    *(pipeline(64, size) for size in (256, 512)),
    *(train(batch, size) for batch, size in ((16, 128), (16, 256))),
)


def _without_compile(case: Case) -> Case:
    """Compiling takes most of a short time, for each shape anew."""
    return replace(case, implementations=tuple(name for name in case.implementations if name != "compile"))


QUICK = (
    op(STEM, 16, 256),
    _without_compile(model(1, 256)),
    model(16, 256),
    pipeline(16, 256),
    _without_compile(train(8, 128)),
)


def select(cases: tuple[Case, ...], kinds: tuple[str, ...]) -> tuple[Case, ...]:
    return tuple(case for case in cases if case.kind in kinds)
