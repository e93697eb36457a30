"""Segments volumes with a trained network, or several, and gives labels on each volume's own grid."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from se_med.config.experiment import Config
from se_med.data.grids import Grids, find_grids
from se_med.data.memory import total_memory
from se_med.data.plan import Normalisation, Plan
from se_med.data.preparation import Array, Preparation, Prepared
from se_med.data.restoration import Restoration
from se_med.errors import ImageError, UsageError
from se_med.inference.components import correct
from se_med.inference.engine import Branch, Maps, logits_of, run
from se_med.inference.fitting import Extras, Fit, fit
from se_med.inference.member import Member, group, refuse_strangers
from se_med.inference.memory import GIB, MemoryGate
from se_med.inference.model import Model, load_model
from se_med.inference.segmentation import Segmentation, volumes_ml
from se_med.inference.uncertainty import entropy
from se_med.inference.windows import WindowStream
from se_med.io.images import read_geometry, read_image, read_images
from se_med.io.volume import Geometry, Volume

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Volume
"""What can be segmented: a file (3D, or 4D with the channels last), one file per channel, or a volume already read."""

SINGLE_PASS = {"test_time_flips": False, "test_time_shifts": 1, "test_time_rotation": 0.0}
"""Settings of inference with which every window passes through the network once."""


class Predictor:
    """Segments volumes with one network, or with the mean of several, which are loaded once.

    Training validates with it, `se-med predict` runs it over files::

        predictor = Predictor.load("runs/hippocampus")
        segmentation = predictor.predict("subject.nii.gz")

    Networks of an ensemble are averaged as probabilities. They have the same structures and channels. Those with equal spacing,
    patch and slice axis see the same windows one after the other, so that memory is that of one. Those that differ in these go
    through the volume with windows of their own, in step, and are averaged on the volume's own grid. Overlap, memory and
    corrections are as the first one's configuration says; flips, shifts and precision as each one's own.

    Several threads may predict at once: each waits until what it needs of `inference.max_memory` is left.

    Args:
        network: takes (B, C, *S) and returns logits (B, outputs, *S). It runs where its weights are.
        config: effective configuration of the run (its `inference` part is used).
        plan: plan of the run.
        digest: the model's digest, for records; empty for a network in training.
        others: further networks of an ensemble.

    Attributes:
        members: all networks.
        digest: of the model; of an ensemble, over those of all members.
        flips: axes (RAS) of the first network's test-time flips.
        shifts: its test-time shifts, voxels per axis (RAS); one for a single pass.

    Raises:
        UsageError: test-time flips along an axis that was not flipped in training, a structure to correct that is not there, or
            an ensemble of networks for other structures or channels.
    """

    def __init__(self, network: nn.Module, config: Config, plan: Plan, digest: str = "", others: Sequence[Model] = ()) -> None:
        self.members = [Member(model) for model in (Model(network, config, plan, digest), *others)]
        refuse_strangers(self.members)
        first = self.members[0]
        self.network, self.config, self.plan, self.device = network, config, plan, first.device
        self.precision, self.flips, self.shifts = first.precision, first.flips, first.shifts
        self.digest = digest if not others else _digest([member.digest for member in self.members])
        self.preparation = Preparation(plan)
        self._groups = group(self.members)
        self._largest = _values(config.inference.largest_component, plan, "largest_component")
        self._filled = _values(config.inference.fill_holes, plan, "fill_holes")
        # A limit above what the machine has would let it swap.
        self._limit = min(config.inference.max_memory * GIB, total_memory())
        self._gate = MemoryGate(self._limit)

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        device: str | torch.device = "auto",
        test_time_flips: bool | Sequence[int] | None = None,
        single_pass: bool = False,
    ) -> Self:
        """Load the model of a finished run, or an ensemble of several.

        Args:
            run: the run folder, or several.
            device: `auto`, `cpu`, `gpu`, or a torch device.
            test_time_flips: axes to flip, or all or none of those that were flipped in training; by default as the run's
                configuration says.
            single_pass: no test-time flips, shifts and rotations: several times as fast, and a little less accurate.

        Raises:
            UsageError: there is no such folder, no such device, a test-time flip that was not trained, one in a single pass, or
                runs that cannot be averaged.
            ConfigError: the run's `config.yaml` is not valid.
            RunError: a file is missing or damaged, or does not belong to the others.
        """
        folders = [run] if isinstance(run, str | os.PathLike) else list(run)
        if not folders:
            raise UsageError("no run given; name the folder of a finished run")
        if single_pass and test_time_flips:
            raise UsageError("test-time flips are further passes; choose them or a single pass")
        changes: dict[str, Any] = {}
        if test_time_flips is not None:
            changes["test_time_flips"] = test_time_flips if isinstance(test_time_flips, bool) else tuple(test_time_flips)
        changes |= SINGLE_PASS if single_pass else {}
        models = [_changed(load_model(Path(folder), device), changes) for folder in folders]
        first, *others = models
        return cls(first.network, first.config, first.plan, first.digest, others)

    def predict(self, source: Source, *, probabilities: bool = False, uncertainty: bool = False) -> Segmentation:
        """Segment one volume.

        Args:
            source: a file, one file per channel, or a volume.
            probabilities: keep the probability of each output of the network.
            uncertainty: keep maps of entropy and, with several passes or networks, of disagreement.

        Raises:
            ImageError: the volume cannot be read, has another number of channels than the network, or takes more memory than
                `inference.max_memory`.
            RunError: the network's output is not finite.
        """
        start = time.perf_counter()
        extras = Extras(self.plan.num_classes * probabilities, uncertainty, bool(self._largest or self._filled))
        geometry, name = _geometry(source)
        way = self._fit(self._grids(geometry, name), extras)
        if way.needed > self._limit:
            raise ImageError(_too_large(name, geometry, self.plan.num_classes, way.needed, self._limit))
        with self._gate.taking(way.needed):
            native = _read(source)
            grids = self._grids(_geometry(native)[0], name)
            arrays = [self._prepared(members, native) for members in self._groups]
            maps = self._run(arrays, grids, way, probabilities=probabilities, uncertainty=uncertainty)
            del arrays
            labels = self._labels(maps, grids[0])
        return self._segmentation(labels, native, maps, grids[0], time.perf_counter() - start)

    def label(self, prepared: Prepared) -> NDArray[np.integer[Any]]:
        """Segment a volume that is prepared already; one of any size, since memory was not asked for when training began.

        Args:
            prepared: as the cache of prepared cases gives it, for the plan of all networks.

        Returns:
            (X, Y, Z) label values on the volume's own grid.

        Raises:
            RunError: the network's output is not finite.
        """
        grids = self._grids(prepared.native)
        way = self._fit(grids, Extras(corrected=bool(self._largest or self._filled), read=False))
        maps = self._run([self._shared(prepared.array)], grids, way)
        return self._labels(maps, grids[0])

    def segment(self, array: Array) -> Tensor:
        """Compute all logits of a prepared volume, which takes memory for each class.

        Args:
            array: (C, X, Y, Z), as `Preparation.forward` or the cache of prepared cases gives it.

        Returns:
            Logits (outputs, X, Y, Z), float32, on the CPU; with several passes the logits of the mean probabilities. The
            network's training mode is left as it was.

        Raises:
            RunError: the logits are not finite.
        """
        x, y, z = array.shape[1:]
        native = Geometry((x, y, z), np.diag([*self.plan.spacing, 1.0]), self.plan.spacing)
        grids = self._grids(native)
        way = self._fit(grids, Extras(read=False))
        with self._evaluating():
            return logits_of(self._streams([self._shared(array)], way)[0], self.plan.num_classes).clone()

    def _grids(self, geometry: Geometry, name: object = "volume") -> list[Grids]:
        return [find_grids(geometry, members[0].plan.spacing, name) for members in self._groups]

    def _fit(self, grids: Sequence[Grids], extras: Extras) -> Fit:
        with self._evaluating():
            return fit(self._groups, grids, self.config.inference, extras, self._limit)

    def _prepared(self, members: Sequence[Member], native: Volume) -> dict[tuple[Normalisation, ...], Array]:
        """Return the array that each normalisation makes of a volume."""
        arrays: dict[tuple[Normalisation, ...], Array] = {}
        for member in members:
            if member.normalisation not in arrays:
                arrays[member.normalisation] = Preparation(member.plan).forward(native).array
        return arrays

    def _shared(self, array: Array) -> dict[tuple[Normalisation, ...], Array]:
        if len({(member.grid, member.normalisation) for member in self.members}) > 1:
            raise ValueError("the networks of this ensemble need volumes that are prepared differently; use predict")
        return {self.members[0].normalisation: array}

    def _streams(
        self, arrays: Sequence[dict[tuple[Normalisation, ...], Array]], way: Fit, uncertainty: bool = False
    ) -> list[WindowStream]:
        measure = partial(entropy, exclusive=not self.plan.regions) if uncertainty else None
        streams = []
        for members, prepared, tiling in zip(self._groups, arrays, way.tilings, strict=True):
            keys = list(prepared)
            passes = [one for member in members for one in member.passes(keys.index(member.normalisation))]
            streams.append(
                WindowStream(
                    list(prepared.values()),
                    passes,
                    tiling,
                    members[0].plan.slice_axis,
                    way.batch,
                    self.plan.num_classes,
                    self.preparation.target,
                    measure,
                )
            )
        return streams

    def _run(
        self,
        arrays: Sequence[dict[tuple[Normalisation, ...], Array]],
        grids: Sequence[Grids],
        way: Fit,
        *,
        probabilities: bool = False,
        uncertainty: bool = False,
    ) -> Maps:
        with self._evaluating():
            branches = [
                Branch(stream, Restoration(grid, way.tilings[0].axis), len(members) / len(self.members))
                for stream, grid, members in zip(self._streams(arrays, way, uncertainty), grids, self._groups, strict=True)
            ]
            measure = partial(entropy, exclusive=not self.plan.regions) if uncertainty else None
            outputs = self.plan.num_classes
            return run(branches, self.preparation.target, outputs, probabilities=probabilities, entropy=measure)

    @contextmanager
    def _evaluating(self) -> Iterator[None]:
        """Compute without gradients, networks in evaluation mode; leave each network's mode as it was."""
        training = [member.network for member in self.members if member.network.training]
        for network in training:
            network.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            for network in training:
                network.train()

    def _labels(self, maps: Maps, grids: Grids) -> NDArray[np.integer[Any]]:
        labels = self.preparation.label_values(maps.classes, grids)
        correct(labels, self._largest, self._filled, list(self.plan.structures.values.values()))
        return labels

    def _segmentation(
        self, labels: NDArray[np.integer[Any]], native: Volume, maps: Maps, grids: Grids, seconds: float
    ) -> Segmentation:
        structures = self.plan.structures.values
        volumes = volumes_ml(labels, native.affine, structures)
        names = (*(() if self.plan.regions else ("background",)), *structures)
        return Segmentation(
            labels,
            native,
            volumes,
            seconds,
            structures,
            names,
            None if maps.probabilities is None else grids.to_native(maps.probabilities),
            None if maps.entropy is None else grids.to_native(maps.entropy),
            None if maps.disagreement is None else grids.to_native(maps.disagreement),
        )


def _geometry(source: Source) -> tuple[Geometry, object]:
    """Return the grid of what is to be segmented, without reading the voxels of a file, and what errors name."""
    if isinstance(source, Volume):
        return Geometry(source.shape, source.affine, source.spacing, len(source.array)), source.path or "volume"
    first = Path(source if isinstance(source, str | os.PathLike) else source[0])
    return read_geometry(first), first


def _read(source: Source) -> Volume:
    if isinstance(source, Volume):
        return source
    if isinstance(source, str | os.PathLike):
        return read_image(source)
    return read_images(source)


def _changed(model: Model, changes: Mapping[str, Any]) -> Model:
    """Return a model with other settings of inference."""
    config = model.config.model_copy(update={"inference": model.config.inference.model_copy(update=changes)})
    return Model(model.network, config, model.plan, model.digest)


def _values(names: Sequence[str], plan: Plan, key: str) -> list[tuple[int, ...]]:
    """Return the label values of structures that the configuration names."""
    structures = plan.structures.values
    for name in names:
        if name not in structures:
            raise UsageError(f"inference.{key}: {name!r} is no structure of the run; it has {', '.join(structures)}")
    return [structures[name] for name in names]


def _digest(digests: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(digests).encode()).hexdigest()


def _too_large(name: object, geometry: Geometry, outputs: int, needed: int, limit: float) -> str:
    size = "x".join(map(str, geometry.shape))
    return (
        f"{name}: {size} voxels and {outputs} outputs take {needed / GIB:.2f} GiB beside the network, but inference.max_memory "
        f"is {limit / GIB:g}; raise it, or train with a smaller patch"
    )
