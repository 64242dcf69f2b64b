"""How many cells of 2x2 pixels have any texture: those whose four pixels are not all of one colour.

Nothing else of a cell reaches a detector of the NPR residual, which subtracts the cell's first pixel from all four: a
cell without texture is zeros (Tan et al., CVPR 2024, equation 4).

On the CPU images go through the op ``npr::textured_cells``, csrc/cpu/texture.cpp; everything else, and where the op is
not there, runs on :func:`reference`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from npr_kernels import backends


def textured_cells(images: Tensor, step: int = 2) -> Tensor:
    """Counts the cells of 2x2 pixels that have texture.

    Args:
        images: uint8 [N, 3, H, W] of any strides, H and W at least 2.
        step: pixels from a cell to the next one, across and down, at least 1; the first one is the top left one. With 2
            it is all cells, with the image's longer side and more that one alone.

    Returns:
        int64 [N], of ceil((H - 1) / step) * ceil((W - 1) / step) cells each.

    Raises:
        TypeError, ValueError: images of another type or shape; a step below 1.

    Example:
        >>> import torch
        >>> from npr_kernels.texture import textured_cells
        >>> image = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
        >>> image[0, 0, 8:16, 0:5] = 1  # 4 rows of cells, of which the third cell alone has both values
        >>> textured_cells(image)
        tensor([4])
    """
    step = _check(images, step)
    if backends.cpu_kernels_run(images.device):
        count: Tensor = torch.ops.npr.textured_cells(images, step)
        return count
    return reference(images, step)


def reference(images: Tensor, step: int = 2) -> Tensor:
    """The same in plain PyTorch, on any device: the specification."""
    step = _check(images, step)
    rows, columns = (side - 1 for side in images.shape[2:])
    first, *others = (
        images[:, :, y : y + rows : step, x : x + columns : step] for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))
    )
    return torch.stack([(first != other).any(dim=1) for other in others]).any(dim=0).sum(dim=(1, 2))


def _check(images: Tensor, step: int) -> int:
    """The step, or a smaller one that reaches no other cell either."""
    if not isinstance(images, Tensor):
        raise TypeError(f"images must be a Tensor, got {type(images).__name__}")
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8, got {images.dtype}")
    if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 2:
        raise ValueError(f"images must be [N, 3, H, W] with H and W of at least 2, got {list(images.shape)}")
    if step < 1:
        raise ValueError(f"step must be at least 1, got {step}")
    return min(step, max(images.shape[2:]))
