"""Why a detector says what it says: activation maps, saliency, residuals and spectra, and pictures of them."""

from detector.explain.activation import Explanation, explain, local_logits
from detector.explain.spectra import MeanSpectrum, high_pass, mean_spectra, radial_profile, spectrum

__all__ = [
    "Explanation",
    "MeanSpectrum",
    "explain",
    "high_pass",
    "local_logits",
    "mean_spectra",
    "radial_profile",
    "spectrum",
]
