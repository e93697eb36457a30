"""Channel squeeze-and-excitation, cSE."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from se_med.attention.activations import GATE_FUNCTIONS
from se_med.attention.gate import at_least_one, hidden_width, one_of, outside_autocast
from se_med.attention.squeeze import MOMENTS, SQUEEZES, mean
from se_med.attention.squeezing import SqueezingGate
from se_med.fused.norm import Gating, Layers


class ChannelGate(SqueezingGate):
    """Squeeze-and-excitation over channels (Hu et al. 2018, arXiv 1709.01507).

    The map is squeezed to one number per channel; two fully connected layers turn these numbers into one weight per channel.
    ``gate(x, source, mask)`` squeezes another map, or leaves padding out; see SqueezingGate.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` units.
        min_hidden: smallest width of the hidden layer.
        hidden: width of the hidden layer, in place of reduction and min_hidden.
        squeeze: ``avg``, ``max``, ``std`` or ``avg+max`` (both through the same layers, outputs summed).
        gate_function: ``sigmoid``, ``hard_sigmoid``, ``tanh``, ``relu`` or ``2sigmoid``.
        bias: biases of the two layers; the ablations of the article have none.
        identity_start: see Gate.

    Raises:
        ValueError: an unknown squeeze or gate function, or a width below 1.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, 1, 1[, 1])``.
    """

    kind = "channel"
    formula = "y = x * sigmoid(W2 relu(W1 squeeze(x) + b1) + b2), squeeze over space"
    source = "Hu, Shen, Sun 2018, arXiv 1709.01507"
    extension = "squeeze std; gate function 2sigmoid"

    def __init__(
        self,
        channels: int,
        spatial_dims: int,
        reduction: int = 4,
        min_hidden: int = 8,
        hidden: int | None = None,
        squeeze: str = "avg",
        gate_function: str = "sigmoid",
        bias: bool = True,
        identity_start: bool = False,
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        width = hidden_width(channels, reduction, min_hidden) if hidden is None else at_least_one("hidden", hidden)
        self.squeezes = SQUEEZES[one_of("squeeze", squeeze, tuple(SQUEEZES))]
        self.gate_function = GATE_FUNCTIONS[one_of("gate_function", gate_function, tuple(GATE_FUNCTIONS))]
        self.fc1 = nn.Linear(channels, width, bias=bias)
        self.fc2 = nn.Linear(width, channels, bias=bias)

    @property
    def moments_only(self) -> bool:
        """Whether nothing but means or standard deviations is squeezed."""
        return all(squeeze in MOMENTS for squeeze in self.squeezes)

    def gating(self) -> Gating | None:
        """Return the gate for the fused kernels, which squeeze to means."""
        if self.squeezes != (mean,):
            return None
        if self.gate_function is GATE_FUNCTIONS["sigmoid"] and self.strength is None:
            layers = Layers(self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
            return Gating("channel", lambda pooled: self.excite(pooled[None]), layers)
        parameters = tuple(self.parameters())
        return Gating("channel", lambda pooled: self.blended(self.excite(pooled[None])), parameters=parameters)

    def weigh(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the weight of each channel, ``(B, C, 1, 1[, 1])``."""
        seen = x if source is None else source
        gate = self.excite(torch.stack([squeeze(seen, mask) for squeeze in self.squeezes]))
        return gate.reshape(x.shape[0], self.channels, *(1,) * self.spatial_dims)

    def excite(self, squeezed: Tensor) -> Tensor:
        """Return the weight of each channel, ``(B, C)``, from what its squeezes gave, ``(squeezes, B, C)``."""
        return outside_autocast(self._excite, squeezed)

    def _excite(self, squeezed: Tensor) -> Tensor:
        logits: Tensor = self.fc2(F.relu(self.fc1(squeezed.to(self.fc1.weight.dtype))))
        return self.gate_function(logits.sum(0))
