"""What the figures do not say, for the reader of a report."""

from __future__ import annotations

from html import escape

from detector.report.markup import Section

_SIMULATED = (
    "Simulated generators",
    "The generators behind figures so marked are decoders fitted in closed form. They imitate how real generators "
    "up-sample, and nothing else of them. Such figures show which up-samplers a detector tells apart, not how well it "
    "would find the images of any published generator.",
)

_LIMITS = (
    (
        "The match with the training data decides",
        "A detector finds what resembles its training. Independent studies of published detectors (arXiv 2505.12335, "
        "arXiv 2602.07814) see their accuracy collapse on current generators. A high figure here holds for the "
        "generators listed here.",
    ),
    (
        "Resizing",
        "NPR compares neighbouring pixels. Any resizing after the image was generated mixes them and removes most of "
        "the evidence; CNNDetection loses ten points of average precision when images in the wild are resized "
        "instead of cropped (Wang et al. 2020).",
    ),
    (
        "Compression and re-encoding",
        "Heavy JPEG compression, blur, noise and the re-encoding of social networks wear the traces away, and mistakes "
        "go both ways: users of NPR found photographs from the web, saved as JPEG, called generated, because its "
        "training had seen none.",
    ),
    (
        "Shallow edits",
        "Retouching, warping and local edits leave most pixels of a photograph as they were. For CNNDetection, "
        "Photoshop's warping tool was at chance level (Wang et al. 2020).",
    ),
    (
        "Super-resolution",
        "A photograph enlarged by a network is a photograph to its owner and generated to its pixels. Detectors do "
        "poorly on it, and which answer would be right depends on the question.",
    ),
    (
        "Scores",
        "A score is not the probability that an image is generated: that also depends on how many generated images "
        "there are where it comes from, which no test set knows. It is no evidence against a person.",
    ),
)


def limits(simulated: bool) -> Section:
    """The section; with simulated generators first where there are any."""
    entries = (_SIMULATED, *_LIMITS) if simulated else _LIMITS
    terms = "".join(f"<dt>{escape(term)}</dt><dd>{escape(text)}</dd>\n" for term, text in entries)
    return Section("Limits", f"<dl>\n{terms}</dl>\n")
