"""The U-Net: encoder, bottleneck, decoder and heads, with attention gates at its sites."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import CONVOLUTIONS, TRANSPOSED, NormFactory, norm_groups
from se_med.networks.stem import make_stem
from se_med.networks.units import make_stage


class UNet(nn.Module):
    """A U-Net in 2D or 3D (Ronneberger et al. 2015, arXiv 1505.04597), built like nnU-Net's plain U-Net.

    Stage 0 has the highest resolution, the last stage is the bottleneck. Encoder stages go down by a strided convolution in
    their first unit; decoder stages go up by a transposed convolution and join the skip connection by concatenation.

    Gates live in ``gates``, apart from everything else and named by site and stage (``gates.decoder_0``), so that a gate more
    or less never renames a convolution.

    Args:
        network: the configuration, with features, strides, kernels and stem filled in.
        in_channels: channels of the image.
        num_classes: classes, background included.
        gates: the gate of each site and stage; see ``placement.place_gates``.
        norms: by site and stage, what makes the norms of its units instead of ``network.norm``; see ``placement.replaced_norms``.

    Attributes:
        divisor: per axis, the number that the spatial size of an input must be divisible by.
        num_heads: number of outputs while training with deep supervision, otherwise 1.

    Raises:
        ValueError: features, strides, kernels or stem are not filled in.
    """

    def __init__(
        self,
        network: NetworkConfig,
        in_channels: int,
        num_classes: int,
        gates: Mapping[tuple[str, int], Gate] | None = None,
        norms: Mapping[tuple[str, int], NormFactory] | None = None,
    ) -> None:
        super().__init__()
        norms = norms or {}
        if network.features is None or network.strides is None or network.kernels is None or network.stem is None:
            raise ValueError("network: features, strides, kernels and stem must be filled in before the network is built")
        features, strides, kernels = network.features, network.strides, network.kernels
        rank, last, fold = network.spatial_dims, len(features) - 1, math.prod(network.stem)
        unity = (1,) * rank
        encoder_units, decoder_units = _per_stage(network.encoder_units, last + 1), _per_stage(network.decoder_units, last)
        self.stem, self.unfold = make_stem(network.stem)
        self.encoder = nn.ModuleList(
            make_stage(
                network,
                norms.get(("encoder" if i < last else "bottleneck", i)),
                features[i - 1] if i else in_channels * fold,
                features[i],
                kernels[i],
                strides[i - 1] if i else unity,
                encoder_units[i],
            )
            for i in range(last + 1)
        )
        self.upsample = nn.ModuleList(TRANSPOSED[rank](features[i + 1], features[i], strides[i], strides[i]) for i in range(last))
        self.decoder = nn.ModuleList(
            make_stage(network, norms.get(("decoder", i)), 2 * features[i], features[i], kernels[i], unity, decoder_units[i])
            for i in range(last)
        )
        self.deep_supervision = network.deep_supervision is not None
        self.num_heads = len(network.deep_supervision or (1.0,))
        self.heads = nn.ModuleList(CONVOLUTIONS[rank](features[i], num_classes * fold, 1) for i in range(self.num_heads))
        self.gates = nn.ModuleDict({f"{site}_{stage}": gate for (site, stage), gate in (gates or {}).items()})
        self.divisor = tuple(math.prod(steps) for steps in zip(network.stem, *strides, strict=True))
        self._batch_norm = network.norm == "batch"
        self._norm_channels = features[-1] // norm_groups(network, features[-1]) if network.norm == "group" else 1

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return the logits of an image.

        Args:
            x: image, ``(B, in_channels, *spatial)``; each spatial size a multiple of ``divisor``.

        Returns:
            Logits ``(B, num_classes, *spatial)``. While training with deep supervision a list of ``num_heads`` logits, the
            first at full resolution, each further one coarser by the stride of its stage.

        Raises:
            ValueError: a size that is not divisible, or so small that the norm of the bottleneck has a single value to work on.
        """
        self._check_size(x)
        x = self.stem(x)
        last = len(self.encoder) - 1
        skips: list[Tensor] = []
        for stage in range(last):
            x = self._gated("encoder", stage, self.encoder[stage](x))
            skips.append(x)
        x = self._gated("bottleneck", last, self.encoder[last](x))
        outputs: list[Tensor] = []
        for stage in reversed(range(last)):
            coarse = x
            x = self._gated("upsample", stage, self.upsample[stage](x))
            skip = self._gated("skip", stage, skips[stage], {"coarse": coarse, "fine": x})
            x = self._gated("concat", stage, torch.cat((x, skip), 1))
            x = self._gated("decoder", stage, self.decoder[stage](x))
            if stage == 0 or (self.training and stage < self.num_heads):
                outputs.append(self.unfold(self.heads[stage](self._gated("head", stage, x))))
        return outputs[::-1] if self.training and self.deep_supervision else outputs[-1]

    def gate(self, site: str, stage: int) -> Gate | None:
        """Return the gate at a site and stage, None where there is none."""
        key = f"{site}_{stage}"
        return cast("Gate", self.gates[key]) if key in self.gates else None

    def _gated(self, site: str, stage: int, x: Tensor, signals: Mapping[str, Tensor] | None = None) -> Tensor:
        gate = self.gate(site, stage)
        if gate is None:
            return x
        gated: Tensor = gate(x, signals[gate.signal]) if signals and gate.signal else gate(x)
        return gated

    def _check_size(self, x: Tensor) -> None:
        sizes = tuple(x.shape[2:])
        if len(sizes) != len(self.divisor) or any(size % by for size, by in zip(sizes, self.divisor, strict=True)):
            raise ValueError(f"input size {list(sizes)}: each must be divisible by {list(self.divisor)}")
        if math.prod(sizes) > math.prod(self.divisor):
            return
        # One voxel is left in the last stage. A norm over a single value returns its bias, whatever the image.
        values = x.shape[0] if self._batch_norm else self._norm_channels
        if values == 1 and (self.training or not self._batch_norm):
            raise ValueError(
                f"input size {list(sizes)}: one voxel is left in the last stage, over which the norm is a constant; "
                "use larger patches, fewer strides, or norm: group"
            )


def _per_stage(units: int | tuple[int, ...], stages: int) -> tuple[int, ...]:
    return units if isinstance(units, tuple) else (units,) * stages
