"""Gather-excite, GE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from se_med.attention.gate import BATCH_NORMS, CONVOLUTIONS, Gate, hidden_width, one_of, wide

VARIANTS = ("theta-", "theta", "theta+")
POOLS = {2: F.avg_pool2d, 3: F.avg_pool3d}


class GatherExcite(Gate):
    """Gather-excite (Hu et al. 2018, arXiv 1810.12348).

    Each channel is gathered over neighbourhoods of ``extent`` voxels; the gathered values, spread back over their
    neighbourhoods, weigh the channel.

    - ``theta-``: average over windows of 2 extent - 1 voxels, without parameters; over the whole map with extent 0;
    - ``theta``: log2(extent) depthwise convolutions of stride 2, each with batch norm;
    - ``theta+``: as ``theta``, followed by the two layers of an excitation, as 1x1 convolutions.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        variant: one of the above.
        extent: a power of two; 0 (the whole map) for ``theta-`` only, since convolutions as large as the map would tie the
            network to one input size.
        reduction: the hidden layer of ``theta+`` has ``max(min_hidden, channels // reduction)`` channels; 16 in the article.
        min_hidden: smallest width of that layer.
        identity_start: see Gate.

    Raises:
        ValueError: an unknown variant, or an extent that it does not have.

    Shape:
        ``(B, C, *spatial)`` to the same; so is the gate, ``(B, C, 1, 1[, 1])`` with extent 0.
    """

    kind = "both"
    formula = "y = x * sigmoid(nearest_up(gather_e(x))), gather an average, depthwise convolutions, or these with an MLP"
    source = "Hu, Shen, Albanie, Sun, Vedaldi 2018, arXiv 1810.12348"
    extension = "3D"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        variant: str = "theta-",
        extent: int = 0,
        reduction: int = 4,
        min_hidden: int = 8,
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        self.variant = one_of("variant", variant, VARIANTS)
        least = 0 if variant == "theta-" else 2
        if isinstance(extent, bool) or not isinstance(extent, int) or extent < least or extent == 1 or extent & (extent - 1):
            raise ValueError(f"extent: {extent!r} must be {'0 or ' if least == 0 else ''}a power of two of at least 2")
        self.extent = extent
        convolution = CONVOLUTIONS[spatial_dims]
        if variant != "theta-":
            self.gather = nn.Sequential()
            for step in range(extent.bit_length() - 1):
                if step:
                    self.gather.append(nn.ReLU(inplace=True))
                self.gather.append(convolution(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False))
                self.gather.append(BATCH_NORMS[spatial_dims](channels))
        if variant == "theta+":
            hidden = hidden_width(channels, reduction, min_hidden)
            self.excite = nn.Sequential(
                nn.ReLU(inplace=True), convolution(channels, hidden, 1), nn.ReLU(inplace=True), convolution(hidden, channels, 1)
            )

    @property
    def moments_only(self) -> bool:
        """Whether the average over the whole map is all that is gathered."""
        return self.extent == 0

    @property
    def uniform(self) -> bool:
        """Whether all voxels of a channel get the same weight, which is so where the whole map is gathered."""
        return self.extent == 0

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each channel and voxel, ``(B, C, *spatial)``, ``(B, C, 1, 1[, 1])`` with extent 0."""
        if self.extent == 0:
            return torch.sigmoid(x.mean(self.spatial_axes, keepdim=True))
        if self.variant == "theta-":
            inside = torch.ones_like(x[:1, :1], dtype=wide(x.dtype))
            gathered = (self._average(x) / self._average(inside)).to(x.dtype)
        else:
            gathered = self.gather(x)
        if self.variant == "theta+":
            gathered = self.excite(gathered)
        return torch.sigmoid(F.interpolate(gathered, size=x.shape[2:], mode="nearest"))

    def _average(self, x: Tensor) -> Tensor:
        # Padded by hand and in float32: torch's 3D pooling refuses maps smaller than the window and half precision on the CPU.
        padded = F.pad(x.to(wide(x.dtype)), (self.extent - 1,) * (2 * self.spatial_dims))
        return POOLS[self.spatial_dims](padded, 2 * self.extent - 1, self.extent)
