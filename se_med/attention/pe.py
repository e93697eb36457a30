"""Project & Excite."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from se_med.attention.gate import CONVOLUTIONS, Gate, hidden_width, wide
from se_med.fused.kernels import WIDEST
from se_med.fused.lines import LineGating


class ProjectExcite(Gate):
    """Project & Excite (Rickmann et al. 2019, arXiv 1906.04649).

    The map is projected to one line per axis, the mean over all other axes. The lines, each repeated along the other axes, are
    summed, and two 1x1 convolutions turn the sum into a weight for every channel and voxel. Which line a voxel belongs to
    matters, so the block keeps its sense of position; voxels cannot be permuted.

    The first convolution is applied to the lines before they are summed, which is the same function at a fraction of the cost.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` channels; 2 in the article.
        min_hidden: smallest width of the hidden layer.
        identity_start: see Gate.

    Shape:
        ``(B, C, *spatial)`` to the same; so is the gate.
    """

    kind = "both"
    formula = "y = x * sigmoid(W2 relu(W1 (z_X + z_Y + z_Z) + b1) + b2), z_A the mean over all axes but A"
    source = "Rickmann, Roy, Sarasua, Navab, Wachinger 2019, arXiv 1906.04649 and 2020, arXiv 2002.10994"
    extension = "2D, with two lines"

    def __init__(
        self, channels: int, spatial_dims: int, reduction: int = 4, min_hidden: int = 8, identity_start: bool = False
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        hidden = hidden_width(channels, reduction, min_hidden)
        self.conv1 = CONVOLUTIONS[spatial_dims](channels, hidden, kernel_size=1)
        self.conv2 = CONVOLUTIONS[spatial_dims](hidden, channels, kernel_size=1)

    def gating(self) -> LineGating | None:
        """Return the gate for the fused kernels, which know neither the blend of ``identity_start`` nor very wide layers."""
        bias, second = self.conv1.bias, self.conv2.bias
        if self.strength is not None or bias is None or second is None or self.conv1.out_channels > WIDEST:
            return None
        return LineGating(self._project, (self.conv1.weight, bias), self.conv2.weight, second)

    def _project(self, lines: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Apply the first layer to lines ``(B, lines, C)``; its bias goes to those of the first axis, which every voxel has."""
        weight, bias = self.conv1.weight.flatten(1), cast("Tensor", self.conv1.bias)
        with torch.autocast(lines.device.type, enabled=False):
            lines = lines.to(weight.dtype)
            return torch.cat((F.linear(lines[:, : axes[0]], weight, bias), F.linear(lines[:, axes[0] :], weight)), 1)

    def weigh(self, x: Tensor) -> Tensor:
        """Return the weight of each channel and voxel, ``(B, C, *spatial)``."""
        hidden = self.conv1(self._line(x, self.spatial_axes[0]))
        bias = cast("Tensor", self.conv1.bias).reshape(1, -1, *(1,) * self.spatial_dims)
        for axis in self.spatial_axes[1:]:
            hidden = hidden + (self.conv1(self._line(x, axis)) - bias)
        return torch.sigmoid(self.conv2(F.relu(hidden)))

    def _line(self, x: Tensor, axis: int) -> Tensor:
        others = tuple(other for other in self.spatial_axes if other != axis)
        return x.mean(others, keepdim=True, dtype=wide(x.dtype)).to(self.conv1.weight.dtype)
