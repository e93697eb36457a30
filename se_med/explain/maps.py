"""Spatial gates as maps on the volume's own grid: windows are blended and restored just as outputs of the network are."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from se_med.attention.cbam import ConvolutionalGate
from se_med.attention.scse import ConcurrentGate
from se_med.data.grids import slabs
from se_med.explain.gates import GateSite, calling
from se_med.explain.windows import Place, branch_of, evaluating
from se_med.inference.memory import GIB
from se_med.inference.predictor import Predictor
from se_med.io.images import read_image, read_images
from se_med.io.maps import write_values
from se_med.io.volume import Volume

MODES = {2: "bilinear", 3: "trilinear"}
SHARE = 0.25
"""Of `inference.max_memory`, what the maps of a case may take."""


@dataclass(frozen=True, eq=False)
class SpatialMap:
    """A gate as a map.

    Attributes:
        gate: the gate.
        values: (X, Y, Z) float32 on the volume's own grid.
    """

    gate: GateSite
    values: NDArray[np.float32]


def spatial_gates(gates: Sequence[GateSite]) -> list[GateSite]:
    """Return the gates that weigh voxels, without their parts."""
    return [gate for gate in gates if not (gate.part or gate.uniform or gate.weighed == "nothing")]


def what_is_shown(gate: GateSite) -> str:
    """Return what the map of a gate shows, in words."""
    if isinstance(gate.module, ConcurrentGate):
        return "spatial part of the gate"
    if isinstance(gate.module, ConvolutionalGate):
        return "spatial part of the gate"
    return "gate" if gate.kind in ("spatial", "skip") else "gate, mean over its channels"


def spatial_part(gate: GateSite, inputs: tuple[Tensor, ...]) -> Tensor:
    """Return one weight per voxel, (B, 1, *S): what `what_is_shown` says."""
    module = gate.module
    if isinstance(module, ConcurrentGate):
        return module.spatial.weigh(inputs[0])
    if isinstance(module, ConvolutionalGate):
        # Its factor is the product of a number per channel and one per voxel.
        return module.weigh(inputs[0]).sum(1, keepdim=True) / module.channel.weigh(inputs[0]).sum(1, keepdim=True)
    return gate.factor(*inputs).mean(1, keepdim=True)


def draw_maps(predictor: Predictor, gates: Sequence[GateSite], files: Sequence[Path]) -> Iterator[SpatialMap]:
    """Compute the maps of one case, one after the other.

    Gates of coarse stages are interpolated linearly to the voxels that the network sees. As many as fit into a share of
    `inference.max_memory` are computed together.

    Args:
        predictor: the network.
        gates: those of `spatial_gates` that are wanted.
        files: the image.

    Raises:
        ImageError: a file cannot be used.
        RunError: a gate is not finite.
    """
    native = _read(files)
    prepared = predictor.preparation.forward(native)
    each = 4 * (math.prod(native.shape) + math.prod(prepared.array.shape[1:]))
    together = max(1, int(SHARE * predictor.config.inference.max_memory * GIB / each))
    member = predictor.members[0]
    for first in range(0, len(gates), together):
        chosen = list(gates[first : first + together])
        found: dict[str, Tensor] = {}

        def visit(
            batch: Tensor, places: Sequence[Place], chosen: list[GateSite] = chosen, found: dict[str, Tensor] = found
        ) -> Tensor:
            found.clear()
            member.forward(batch)
            rank = batch.ndim - 2
            maps = [F.interpolate(found[gate.name].float(), batch.shape[2:], mode=MODES[rank]) for gate in chosen]
            return torch.cat(maps, 1).cpu()

        def see(gate: GateSite, inputs: tuple[Tensor, ...], found: dict[str, Tensor] = found) -> None:
            found[gate.name] = spatial_part(gate, inputs)

        branch = branch_of(predictor, prepared.array, prepared.native, visit, len(chosen), files[0])
        grids, axis = branch.restoration.grids, branch.restoration.axis
        values = np.empty((len(chosen), *grids.oriented), np.float32)
        with evaluating(member.network), calling(member.network, see):
            done = 0
            while done < grids.oriented[axis]:
                ready = branch.advance(done)
                for slab in slabs(grids.oriented, axis, done, ready):
                    for one, planes in zip(values, branch.read(slab), strict=True):
                        one[(slice(None),) * axis + (slab,)] = planes.numpy()
                branch.release(ready)
                done = ready
        for gate, one in zip(chosen, values, strict=True):
            yield SpatialMap(gate, np.ascontiguousarray(grids.to_native(one)))


def write_maps(
    predictor: Predictor, gates: Sequence[GateSite], files: Sequence[Path], folder: Path, name: str
) -> tuple[Volume, list[SpatialMap], list[Path]]:
    """Write a NIfTI file for each spatial gate of a case, `NAME_PLACE.nii.gz`; return the image, the maps and the files.

    Raises:
        ImageError: a file cannot be used.
        RunError: a file cannot be written.
    """
    native = _read(files)
    maps, paths = [], []
    for one in draw_maps(predictor, gates, files):
        place = one.gate.label.replace(" ", "_").replace(".", "-")
        paths.append(folder / f"{name}_{place}.nii.gz")
        write_values(paths[-1], one.values, native)
        maps.append(one)
    return native, maps, paths


def _read(files: Sequence[Path]) -> Volume:
    return read_image(files[0]) if len(files) == 1 else read_images(list(files))
