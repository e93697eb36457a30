"""Channel gates that are replaced by their running mean at inference: the base of the controls ``mean`` and ``shuffled``."""

from __future__ import annotations

import torch
from torch import Tensor

from se_med.attention.cse import ChannelGate
from se_med.attention.squeezing import SqueezingGate

MOMENTUM = 0.05
"""Weight of the newest batch in the running mean."""


class AveragedGate(SqueezingGate):
    """A channel gate that keeps a running mean of itself while training and is that mean at inference.

    Args:
        channels: number of channels C of the input.
        spatial_dims: 2 or 3.
        reduction: the hidden layer has ``max(min_hidden, channels // reduction)`` units.
        min_hidden: smallest width of the hidden layer.
        identity_start: see Gate.

    Shape:
        ``(B, C, *spatial)`` to the same; the gate is ``(B, C, 1, 1[, 1])``, at inference ``(1, C, 1, 1[, 1])``.
    """

    running_mean: Tensor
    batches: Tensor

    def __init__(
        self, channels: int, spatial_dims: int, reduction: int = 4, min_hidden: int = 8, identity_start: bool = False
    ) -> None:
        super().__init__(channels, spatial_dims, identity_start)
        self.channel = ChannelGate(channels, spatial_dims, reduction, min_hidden)
        self.register_buffer("running_mean", torch.full((channels,), 0.5))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    @property
    def moments_only(self) -> bool:
        """Whether nothing but means is squeezed, as in the cse inside: behind an instance norm that would be no control of it."""
        return self.channel.moments_only

    @property
    def uniform(self) -> bool:
        """Whether all voxels of a channel get the same weight: always."""
        return True

    def weigh(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the weight of each channel: of this batch while training, the running mean at inference."""
        if not self.training:
            return self.running_mean.reshape(1, self.channels, *(1,) * self.spatial_dims)
        gate = self.channel.weigh(x, source, mask)
        with torch.no_grad():
            newest = gate.detach().mean((0, *self.spatial_axes)).to(self.running_mean.dtype)
            # The first batches weigh equally, so that the arbitrary start of the mean leaves no trace.
            share = (self.batches + 1).to(newest.dtype).reciprocal().clamp(min=MOMENTUM)
            self.running_mean.lerp_(newest, share)
            self.batches.add_(1)
        return gate
