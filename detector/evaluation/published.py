"""What the papers report on their test sets, in percent, as they print it; every row names its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_NPR = "Tan et al., CVPR 2024 (arXiv 2312.10461)"
_NPR_PAGE = "Repository of NPR (chuangchuangtan/NPR-DeepfakeDetection), README"
_CNN_PAGE = "Repository of CNNDetection (PeterWang512/CNNDetection), README"


@dataclass(frozen=True)
class Published:
    """One detector's published row, in percent by the generators' display names.

    Attributes:
        detector: its name, with the variant where there are several.
        source: paper and table, or page.
        accuracy, average_precision: empty where the source gives none for single generators.
        mean_accuracy, mean_average_precision: the means that the source prints, None where it prints none.
        note: what a reader of the figures should know.
    """

    detector: str
    source: str
    accuracy: Mapping[str, float] = field(default_factory=dict)
    average_precision: Mapping[str, float] = field(default_factory=dict)
    mean_accuracy: float | None = None
    mean_average_precision: float | None = None
    note: str = ""


def _row(names: str, values: str) -> dict[str, float]:
    return dict(zip(names.split(), map(float, values.split()), strict=True))


_GANS = "ProGAN StyleGAN StyleGAN2 BigGAN CycleGAN StarGAN GauGAN Deepfake"

FORENSYNTHS_8 = (
    Published(
        "NPR",
        f"{_NPR}, Table 1",
        _row(_GANS, "99.8 96.3 97.3 87.5 95.0 99.7 86.6 77.4"),
        _row(_GANS, "100.0 99.8 100.0 94.5 99.5 100.0 88.8 86.2"),
        92.5,
        96.1,
    ),
    Published(
        "CNNDetection",
        f"{_NPR}, Table 1",
        _row(_GANS, "91.4 63.8 76.4 52.9 72.7 63.8 63.9 51.7"),
        _row(_GANS, "99.4 91.4 97.5 73.3 88.6 90.8 92.2 62.3"),
        67.1,
        86.9,
    ),
    Published(
        "UnivFD (Ojha)",
        f"{_NPR}, Table 1",
        _row(_GANS, "99.7 89.0 83.9 90.5 87.9 91.4 89.9 80.2"),
        _row(_GANS, "100.0 98.7 98.4 99.1 99.8 100.0 100.0 90.2"),
        89.1,
        98.3,
    ),
)

_THIRTEEN = "ProGAN StyleGAN BigGAN CycleGAN StarGAN GauGAN CRN IMLE SITD SAN Deepfake StyleGAN2 WhichFaceIsReal"
_UNCROPPED = "Whole images, not the crop: compare with --policy native."

FORENSYNTHS_13 = (
    Published(
        "CNNDetection, Blur+JPEG (0.5)",
        _CNN_PAGE,
        _row(_THIRTEEN, "100.0 73.4 59.0 80.8 81.0 79.3 87.6 94.1 78.3 50.0 51.1 68.4 63.9"),
        _row(_THIRTEEN, "100.0 98.5 88.2 96.8 95.4 98.1 98.9 99.5 92.7 63.9 66.3 98.0 88.8"),
    ),
    Published(
        "CNNDetection, Blur+JPEG (0.1)",
        _CNN_PAGE,
        _row(_THIRTEEN, "100.0 87.1 70.2 85.2 91.7 78.9 86.3 86.2 90.3 50.5 53.5 84.4 83.6"),
        _row(_THIRTEEN, "100.0 99.6 84.5 93.5 98.2 89.5 98.2 98.4 97.2 70.5 89.0 99.1 93.2"),
    ),
    Published(
        "CNNDetection, Blur+JPEG (0.5), uncropped",
        _CNN_PAGE,
        _row(_THIRTEEN, "100.0 77.5 59.5 84.6 84.7 82.9 97.8 98.8 93.9 50.0 50.4 72.4 75.2"),
        _row(_THIRTEEN, "100.0 99.3 90.4 97.9 97.5 98.8 100.0 100.0 99.6 62.8 63.1 99.1 100.0"),
        note=_UNCROPPED,
    ),
)

GANGEN = (
    Published(
        "NPR",
        _NPR,
        mean_accuracy=93.2,
        note="Users of an earlier copy of the set could not reproduce it (the repository's issue 2).",
    ),
    Published("UnivFD (Ojha)", _NPR, mean_accuracy=77.6),
)

DIFFUSION_FORENSICS = (Published("NPR", _NPR, mean_accuracy=95.3),)

UNIVERSAL_FAKE_DETECT = (Published("NPR", _NPR, mean_accuracy=95.2),)

DIFFUSION_1K_STEP = (Published("NPR", _NPR, mean_accuracy=80.1),)

_SIXTEEN = "ProGAN StyleGAN BigGAN CycleGAN StarGAN GauGAN StyleGAN2 WFIR ADM Glide Midjourney SDv1.4 SDv1.5 VQDM "
_SIXTEEN += "Wukong DALLE2"

AIGC_16 = (
    Published(
        "NPR",
        _NPR_PAGE,
        _row(_SIXTEEN, "99.9 96.1 87.3 90.3 99.6 85.4 98.1 60.7 84.9 96.7 92.6 97.4 97.5 90.1 91.7 99.6"),
        mean_accuracy=91.7,
        note="An earlier version of the page has StarGAN 85.4 and GauGAN 98.1, and the same mean.",
    ),
    Published(
        "CNNDetection",
        _NPR_PAGE,
        _row(
            _SIXTEEN,
            "100.00 90.17 71.17 87.62 94.60 81.42 86.91 91.65 60.39 58.07 51.39 50.57 50.53 56.46 51.03 50.45",
        ),
        mean_accuracy=70.78,
    ),
    Published(
        "UnivFD (Ojha)",
        _NPR_PAGE,
        _row(
            _SIXTEEN,
            "99.81 84.93 95.08 98.33 95.75 99.47 74.96 86.90 66.87 62.46 56.13 63.66 63.49 85.31 70.93 50.75",
        ),
        mean_accuracy=78.43,
    ),
)

_WITHOUT_SD14 = "ADM BigGAN Glide Midjourney SDv1.5 VQDM Wukong"

GENIMAGE = (
    Published(
        "NPR, trained on SDv1.4",
        _NPR_PAGE,
        _row(_WITHOUT_SD14, "87.8 80.7 93.2 91.7 94.4 88.7 94.0"),
        _row(_WITHOUT_SD14, "96.0 89.8 99.1 97.9 99.9 96.1 99.7"),
        90.1,
        96.9,
        note="Its mean leaves SDv1.4 out, the generator that it is trained on.",
    ),
)
