"""The mask of an image, at the resolution of every stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch.nn.functional as F
from torch import Tensor

from se_med.networks.seat import Masks

MAXIMUM_POOLS = {2: F.max_pool2d, 3: F.max_pool3d}


def mask_pyramid(mask: Tensor, factors: Iterable[Sequence[int]]) -> Masks:
    """Return the masks of all stages by their spatial size.

    A voxel of a coarser stage counts where any of the image's voxels below it counts.

    Args:
        mask: not 0 at the voxels that count, ``(B or 1, 1, *spatial)``.
        factors: the step from each resolution to the next, per axis, starting from that of the image.
    """
    masks: dict[tuple[int, ...], Tensor] = {}
    here = (mask != 0).float()
    for factor in factors:
        here = MAXIMUM_POOLS[len(factor)](here, tuple(factor))
        masks[tuple(here.shape[2:])] = here
    return masks
