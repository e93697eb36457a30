"""The U-Net: encoder, bottleneck, decoder and heads, with attention gates at its sites."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from se_med.attention import Gate
from se_med.config.network import NetworkConfig
from se_med.networks.layers import CONVOLUTIONS, TRANSPOSED, NormFactory
from se_med.networks.masks import mask_pyramid
from se_med.networks.normalise import to_channels_last
from se_med.networks.placement import GateKey, per_stage
from se_med.networks.seat import Masks, Seat, pass_gate
from se_med.networks.stem import make_stem
from se_med.networks.units import make_stage


class UNet(nn.Module):
    """A U-Net in 2D or 3D (Ronneberger et al. 2015, arXiv 1505.04597), built like nnU-Net's plain U-Net.

    Stage 0 has the highest resolution, the last stage is the bottleneck. Encoder stages go down by a strided convolution in
    their first unit; decoder stages go up by a transposed convolution and join the skip connection by concatenation.

    Gates live in ``gates``, apart from everything else and named by site and stage (``gates.decoder_0``), those inside units by
    site, stage and unit (``gates.decoder_0_1``), so that a gate more or less never renames a convolution.

    Args:
        network: the configuration, with features, strides, kernels and stem filled in.
        in_channels: channels of the image.
        num_classes: classes, background included.
        gates: the gate of each site and stage, or of each of their units; see ``placement.place_gates``.
        norms: by site and stage, what makes the norms of its units instead of ``network.norm``; see ``placement.replaced_norms``.
        seats: by site, where in its units the gates stand; see ``placement.unit_seats``.

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
        gates: Mapping[GateKey, Gate] | None = None,
        norms: Mapping[tuple[str, int], NormFactory] | None = None,
        seats: Mapping[str, Seat] | None = None,
    ) -> None:
        super().__init__()
        norms, seats = norms or {}, seats or {}
        if network.features is None or network.strides is None or network.kernels is None or network.stem is None:
            raise ValueError("network: features, strides, kernels and stem must be filled in before the network is built")
        features, strides, kernels = network.features, network.strides, network.kernels
        rank, last, fold = network.rank, len(features) - 1, math.prod(network.stem)
        unity = (1,) * rank
        encoder_units, decoder_units = per_stage(network.encoder_units, last + 1), per_stage(network.decoder_units, last)
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
                seats.get("encoder" if i < last else "bottleneck"),
            )
            for i in range(last + 1)
        )
        self.upsample = nn.ModuleList(TRANSPOSED[rank](features[i + 1], features[i], strides[i], strides[i]) for i in range(last))
        self.decoder = nn.ModuleList(
            make_stage(
                network,
                norms.get(("decoder", i)),
                2 * features[i],
                features[i],
                kernels[i],
                unity,
                decoder_units[i],
                seats.get("decoder"),
            )
            for i in range(last)
        )
        self.deep_supervision = network.deep_supervision is not None
        self.num_heads = len(network.deep_supervision or (1.0,))
        self.heads = nn.ModuleList(CONVOLUTIONS[rank](features[i], num_classes * fold, 1) for i in range(self.num_heads))
        self.gates = nn.ModuleDict({"_".join(map(str, key)): gate for key, gate in (gates or {}).items()})
        self.divisor = tuple(math.prod(steps) for steps in zip(network.stem, *strides, strict=True))
        self._factors = (network.stem, *strides)
        self._batch_norm = network.norm == "batch"
        norms_of_last = [module for module in self.encoder[last].modules() if isinstance(module, nn.GroupNorm)]
        self._norm_channels = min((norm.num_channels // norm.num_groups for norm in norms_of_last), default=1)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor | list[Tensor]:
        """Return the logits of an image.

        Args:
            x: image, ``(B, in_channels, *spatial)``; each spatial size a multiple of ``divisor``.
            mask: 0 at padding, ``(B or 1, 1, *spatial)``. Gates that squeeze channels (SqueezingGate) leave these voxels out at
                every stage; all other layers see them. Without a mask all voxels count.

        Returns:
            Logits ``(B, num_classes, *spatial)``. While training with deep supervision a list of ``num_heads`` logits, the
            first at full resolution, each further one coarser by the stride of its stage.

        Raises:
            ValueError: a size that is not divisible, or so small that the norm of the bottleneck has a single value to work on; a
                mask of another size.
        """
        self._check_size(x)
        masks = self._masks(x, mask)
        x = to_channels_last(self.stem(x))
        last = len(self.encoder) - 1
        skips: list[Tensor] = []
        for stage in range(last):
            x = self._stage("encoder", stage, x, masks)
            skips.append(x)
        x = self._stage("bottleneck", last, x, masks)
        outputs: list[Tensor] = []
        for stage in reversed(range(last)):
            coarse = x
            x = pass_gate(self.gate("upsample", stage), self.upsample[stage](x), masks=masks)
            skip = self._skip(stage, skips[stage], {"coarse": coarse, "fine": x}, masks)
            x = pass_gate(self.gate("concat", stage), torch.cat((x, skip), 1), masks=masks)
            x = self._stage("decoder", stage, x, masks)
            if stage == 0 or (self.training and stage < self.num_heads):
                outputs.append(self.unfold(self.heads[stage](pass_gate(self.gate("head", stage), x, masks=masks))))
        return outputs[::-1] if self.training and self.deep_supervision else outputs[-1]

    def gate(self, site: str, stage: int, unit: int | None = None) -> Gate | None:
        """Return the gate at a site and stage, inside the unit of that number if one is given; None where there is none."""
        key = f"{site}_{stage}" if unit is None else f"{site}_{stage}_{unit}"
        return cast("Gate", self.gates[key]) if key in self.gates else None

    def _stage(self, site: str, stage: int, x: Tensor, masks: Masks | None) -> Tensor:
        units = self.decoder[stage] if site == "decoder" else self.encoder[stage]
        gates = [self.gate(site, stage, unit) for unit in range(len(cast("Sequence[nn.Module]", units)))]
        gated: Tensor = units(x, gates, masks, self.gate(site, stage))
        return gated

    def _skip(self, stage: int, x: Tensor, signals: Mapping[str, Tensor], masks: Masks | None) -> Tensor:
        gate = self.gate("skip", stage)
        if gate is None or not gate.signal:
            return pass_gate(gate, x, masks=masks)
        gated: Tensor = gate(x, signals[gate.signal])
        return gated

    def _masks(self, x: Tensor, mask: Tensor | None) -> Masks | None:
        if mask is None:
            return None
        if mask.ndim != x.ndim or mask.shape[0] not in (1, x.shape[0]) or mask.shape[1] != 1 or mask.shape[2:] != x.shape[2:]:
            raise ValueError(f"mask {list(mask.shape)}: an image {list(x.shape)} needs one of {[x.shape[0], 1, *x.shape[2:]]}")
        return mask_pyramid(mask, self._factors)

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
