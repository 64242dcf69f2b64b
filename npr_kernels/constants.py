"""Normalisation constants that define the detectors' input."""

IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)

#: Factor that the NPR network puts between the residual and its first convolution (Tan et al., CVPR 2024, their code).
NPR_SCALE: float = 2 / 3
