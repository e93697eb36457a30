"""A run without some of its gates: a configuration to train without them, and a model with constants for them, folded away."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor

from se_med.config.attention import AttentionConfig
from se_med.config.dump import dump_config
from se_med.config.experiment import Config
from se_med.config.network import NetworkConfig
from se_med.errors import RunError, UsageError
from se_med.explain.folding import FoldedGate, Folding, KeptGate, fold_gates
from se_med.explain.gates import find_gates, replacing
from se_med.explain.knockout import Removable, constant_variant, removable_gates
from se_med.inference.model import save_model
from se_med.inference.predictor import Predictor
from se_med.io.atomic import write_text
from se_med.networks.placement import site_channels
from se_med.networks.unet import UNet

CONFIG, MODEL, RECORD = "pruned.yaml", "pruned", "pruning.json"
"""Names of the configuration, of the model's folder, and of what in it says where it comes from."""
TOLERANCE = 1e-4
"""Largest difference of outputs, relative to the largest output, that is rounding."""
NAME_LENGTH = 100
SUFFIX = "-pruned"


@dataclass(frozen=True)
class Pruned:
    """What was written.

    Attributes:
        config: the configuration without the gates, to train from scratch.
        model: folder of the model without their cost; None where no gate could be folded.
        folded: gates that the model does without, and where their factors are now.
        kept: gates that the model still has, and why.
        difference: largest difference between the outputs of the model and of the network with constant gates, relative to the
            largest output, on one random window.
        sentence: all that in words.
    """

    config: Path
    model: Path | None
    folded: tuple[FoldedGate, ...]
    kept: tuple[KeptGate, ...]
    difference: float
    sentence: str


def prune(predictor: Predictor, gates: Sequence[str], factors: Mapping[str, Tensor], folder: Path) -> Pruned:
    """Write a configuration without some gates, and a model in which constants for them are folded into other layers.

    Args:
        predictor: of the run.
        gates: names of places, as `Removable.name` and `Ranking` have them.
        factors: by name of the gate, the constant in its place, its mean or 1, `(C,)` or `(1,)`.
        folder: where `pruned.yaml` and the folder `pruned` are written; it is made.

    Raises:
        UsageError: no gate, or no place of that name.
        RunError: a file cannot be written, or the outputs differ by more than rounding.
    """
    network = cast("UNet", predictor.network)
    places = _chosen(network, gates)
    folding = fold_gates(network, {name: factors[name] for place in places for name in place.gates})
    gone = {one.gate for one in folding.folded}
    removed = [place for place in places if set(place.gates) <= gone]
    difference = _difference(predictor, removed, factors, folding) if removed else 0.0
    if not difference <= TOLERANCE:
        raise RunError(
            f"{folder}: nothing was written: outputs differ by {difference:.1e} of the largest from those of constant gates"
        )
    folder.mkdir(parents=True, exist_ok=True)
    config, model = folder / CONFIG, None
    write_text(config, dump_config(without_gates(predictor.config, places)))
    if removed:
        model = folder / MODEL
        model.mkdir(exist_ok=True)
        state = {name: tensor.cpu() for name, tensor in folding.network.state_dict().items()}
        digest = save_model(model, state, without_gates(predictor.config, removed), predictor.plan)
        record = {
            "model": digest,
            "source": predictor.digest,
            "folded": [asdict(one) for one in folding.folded],
            "kept": [asdict(one) for one in folding.kept],
            "difference": difference,
        }
        write_text(model / RECORD, json.dumps(record, indent=2) + "\n")
    sentence = _sentence(places, folding, network, config, model, difference)
    return Pruned(config, model, folding.folded, folding.kept, difference, sentence)


def without_gates(config: Config, places: Sequence[Removable]) -> Config:
    """Return a configuration without the gates of some places, under a name of its own."""
    left = {field: getattr(config.attention, field) for field in AttentionConfig.model_fields}
    for site in {place.site for place in places}:
        gate = left[site]
        if gate is None:
            continue
        gone = {place.stage for place in places if place.site == site}
        stages = tuple(stage for stage in _stages(config.network, site, gate.stages) if stage not in gone)
        left[site] = gate.model_copy(update={"stages": stages}) if stages else None
    name = config.name[: NAME_LENGTH - len(SUFFIX)] + SUFFIX
    return config.model_copy(update={"attention": AttentionConfig.model_validate(left), "name": name})


def _stages(network: NetworkConfig, site: str, stages: Sequence[int] | None) -> Sequence[int]:
    return list(site_channels(network.features or ())[site]) if stages is None else stages


def _chosen(network: UNet, gates: Sequence[str]) -> list[Removable]:
    known = {place.name: place for place in removable_gates(find_gates(network))}
    if not gates:
        raise UsageError("prune: no gate to remove")
    for name in gates:
        if name not in known:
            raise UsageError(f"prune: {name!r} has no gate that could be removed; choose of {', '.join(known) or 'none'}")
    return [place for name, place in known.items() if name in set(gates)]


def _difference(predictor: Predictor, places: Sequence[Removable], factors: Mapping[str, Tensor], folding: Folding) -> float:
    """Return how far the folded network is from the one with constant gates on a random window, as a share of the largest."""
    plan = predictor.plan
    window = torch.randn(1, len(plan.channels), *plan.patch, generator=torch.Generator().manual_seed(0)).to(predictor.device)
    with torch.inference_mode():
        with replacing(predictor.network, constant_variant(places, factors, len(plan.patch)).factors):
            wanted = predictor.network.eval()(window)
        found = folding.network(window)
    return float((found - wanted).abs().max() / wanted.abs().max().clamp(min=torch.finfo(wanted.dtype).tiny))


def _sentence(
    places: Sequence[Removable], folding: Folding, network: UNet, config: Path, model: Path | None, difference: float
) -> str:
    names = ", ".join(place.name for place in places)
    said = [f"{config} trains a network without the gates of {names}."]
    gates = {gate.name: gate for gate in find_gates(network)}
    if model is not None:
        said.append(
            f"{model} is this network with constants for them, folded into other layers: it gives what the constants give "
            f"(outputs differ by at most {difference:.1e} of the largest, measured on one window), without the gates' cost."
        )
    spatial = [gates[one.gate].label for one in folding.folded if one.into and not gates[one.gate].uniform]
    if spatial:
        said.append(f"Of gates that weigh voxels ({', '.join(spatial)}) it is the mean over cases and voxels, one per channel.")
    said += [f"{gates[one.gate].label} stays: {one.reason}." for one in folding.kept]
    return " ".join(said)
