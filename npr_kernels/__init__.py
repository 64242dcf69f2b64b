"""Fused NPR kernels: uint8 decode-normalise, neighbouring pixel relationships and the first convolution in one pass::

    import npr_kernels as nk
    y = nk.npr_conv2d(images, weight)          # images uint8 [N, 3, H, W], weight [64, 3, 3, 3]
    layer = nk.NPRConv(3, 64)                  # the same as a module
    stem = nk.NPRStem(64)                      # and with batch norm, ReLU and max-pooling

``residual="haar"`` makes them read the diagonal Haar band of each 2x2 cell instead, ``"npr+haar"`` both.

Public: the functions :func:`npr_residual`, :func:`haar_residual`, :func:`npr_conv2d` and :func:`npr_stem`; the layers
:class:`NPRConv` and :class:`NPRStem`, and :func:`fused_stem` for models with layers of their own; their specification
:mod:`npr_kernels.reference`; :func:`available_backends`, :class:`backend` and :func:`info`.
"""

from npr_kernels import ops, reference
from npr_kernels.backends import NPRFallbackWarning, available_backends, backend
from npr_kernels.constants import IMAGENET_MEAN, IMAGENET_STD, NPR_SCALE
from npr_kernels.functional import haar_residual, npr_conv2d, npr_residual, npr_stem
from npr_kernels.installation import __version__, info
from npr_kernels.layers import NPRConv, NPRStem, fused_stem

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "NPR_SCALE",
    "NPRConv",
    "NPRFallbackWarning",
    "NPRStem",
    "__version__",
    "available_backends",
    "backend",
    "fused_stem",
    "haar_residual",
    "info",
    "npr_conv2d",
    "npr_residual",
    "npr_stem",
    "ops",
    "reference",
]
