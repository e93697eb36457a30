"""A trained model on disk: weights, configuration and plan, written once and checked before use.

A model is three files of a run folder: `model.safetensors` (weights, with digests in its metadata), `config.yaml` and
`plan.json`. None of them can hold code. The weights are written last, so a folder that has them is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

import se_med
from se_med.config.dump import dump_config
from se_med.config.experiment import Config
from se_med.config.load import parse_config
from se_med.data.plan import Plan
from se_med.errors import RunError, SeMedError, UsageError
from se_med.inference.precision import resolve_device
from se_med.io.atomic import replacing, write_text
from se_med.io.textfile import read_text
from se_med.networks.build import build_network

WEIGHTS = "model.safetensors"
CONFIG = "config.yaml"
PLAN = "plan.json"
METADATA = "se_med"
"""The one entry of the weights' metadata: a JSON object."""
FORMAT = "1"
"""Version of the metadata in `model.safetensors`; another number is refused."""
_MOST_TEXT = 1_000_000  # bytes of a configuration or plan
AUXILIARY_HEAD = re.compile(r"heads\.[1-9]\d*\.")
"""How names of tensors begin that only training with deep supervision needs: a model on disk does not have them."""


@dataclass(frozen=True)
class Model:
    """A trained network with everything that inference needs to know.

    Attributes:
        network: the network in evaluation mode, on its device, with float32 weights; without heads of deep supervision.
        config: effective configuration of the run.
        plan: plan of the run.
        digest: sha256 over weights, plan, and the network and attention parts of the configuration: two models with one
            digest give the same result.
    """

    network: nn.Module
    config: Config
    plan: Plan
    digest: str


def save_model(folder: str | Path, state: Mapping[str, Tensor], config: Config, plan: Plan) -> str:
    """Write weights, configuration and plan into a run folder, each file atomically.

    Args:
        folder: the run folder; it must exist.
        state: the weights by name, as `state_dict()` of the network names them; auxiliary heads of deep supervision are left out.
        config: the effective configuration, from which the same network can be built.
        plan: the plan.

    Returns:
        The model's digest, as `load_model` will find it.

    Raises:
        RunError: a file cannot be written, or a weight is not finite.
    """
    folder = Path(folder)
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items() if not AUXILIARY_HEAD.match(name)}
    _refuse_non_finite(tensors, folder / WEIGHTS)
    metadata = {
        "format": FORMAT,
        "se_med": se_med.__version__,
        "plan": _plan_digest(plan),
        "network": _network_digest(config),
        "weights": _weights_digest(tensors),
    }
    write_text(folder / CONFIG, dump_config(config))
    write_text(folder / PLAN, plan.model_dump_json(indent=2) + "\n")
    with replacing(folder / WEIGHTS) as temporary:
        # Cloned where two names share memory, which safetensors refuses.
        # One entry, since safetensors writes several in random order and equal models would not be equal files.
        # Not `save_file`, which makes a file that nobody else may read.
        temporary.write_bytes(save(_unshared(tensors), metadata={METADATA: json.dumps(metadata)}))
    return _model_digest(metadata)


def load_model(folder: str | Path, device: str | torch.device = "auto") -> Model:
    """Read a model from a run folder and check that its files belong together.

    Args:
        folder: the run folder.
        device: `auto`, `cpu`, `gpu`, or a torch device.

    Raises:
        UsageError: there is no such folder.
        ConfigError: `config.yaml` is not valid.
        RunError: a file is missing or damaged, was written by a newer se-med, or does not belong to the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"{folder}: {'is a file' if folder.exists() else 'does not exist'}; name the folder of a finished run")
    missing = [name for name in (WEIGHTS, CONFIG, PLAN) if not (folder / name).is_file()]
    if missing:
        raise RunError(f"{folder}: {', '.join(missing)} missing; name the folder of a run whose training has finished")
    metadata, tensors = _read_weights(folder / WEIGHTS)
    config = parse_config(_read_text(folder / CONFIG), str(folder / CONFIG), folder)
    plan = read_plan(folder / PLAN)
    for name, found, what in (
        (PLAN, _plan_digest(plan), "plan"),
        (CONFIG, _network_digest(config), "network"),
        (WEIGHTS, _weights_digest(tensors), "weights"),
    ):
        if metadata.get(what) != found:
            expected = f"sha256 {metadata.get(what, 'none')[:12]} was recorded after training, {found[:12]} found"
            raise RunError(f"{folder / name}: the {what} changed since training ({expected}); restore the run's own file")
    _refuse_larger_network(config, plan, tensors, folder)
    network = _build(config, plan, folder)
    _check_tensors(tensors, network.state_dict(), folder / WEIGHTS)
    _refuse_non_finite(tensors, folder / WEIGHTS)
    network.load_state_dict(tensors)
    return Model(network.to(resolve_device(device)).eval(), config, plan, _model_digest(metadata))


def read_plan(path: str | Path) -> Plan:
    """Read a stored plan.

    Raises:
        RunError: the file is not a plan of this version.
    """
    try:
        return Plan.model_validate_json(_read_text(Path(path)))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RunError(f"{path}: not a plan that se-med {se_med.__version__} can read: {where}: {first['msg']}") from None


def _read_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = _read_metadata((file.metadata() or {}).get(METADATA, "{}"))
            if metadata.get("format") != FORMAT:
                writer = f"se-med {metadata['se_med']}" if "se_med" in metadata else "another program"
                raise RunError(
                    f"{path}: format {metadata.get('format', 'unknown')} written by {writer}, but se-med {se_med.__version__} "
                    f"reads format {FORMAT}; use the version that trained the model"
                )
            return metadata, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path}: damaged or not a safetensors file ({error}); copy it again or train again") from None


def _read_metadata(text: str) -> dict[str, str]:
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {key: str(value) for key, value in metadata.items()} if isinstance(metadata, dict) else {}


def _read_text(path: Path) -> str:
    try:
        return read_text(path, _MOST_TEXT)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RunError(f"{path}: cannot be read: {reason}; restore the run's own file") from None


def _build(config: Config, plan: Plan, folder: Path) -> nn.Module:
    network = config.network.model_copy(update={"deep_supervision": None})
    try:
        return build_network(network, config.attention, len(plan.channels), plan.num_classes, config.seed)
    except (SeMedError, ValueError, RuntimeError, OverflowError, ZeroDivisionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise RunError(f"{folder / CONFIG}: no network can be built from it: {reason}") from None


def _refuse_larger_network(config: Config, plan: Plan, tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse a configuration of a far larger network than the weights are for, before that network takes its memory."""
    features, kernels = config.network.features or (), config.network.kernels or ()
    largest = max((math.prod(kernel) for kernel in kernels), default=1) * max(features, default=1) ** 2
    found = sum(tensor.numel() for tensor in tensors.values())
    if largest > 1000 * max(found, 1000):
        raise RunError(
            f"{folder / CONFIG}: describes a network of far more weights than the {found} of {WEIGHTS}: the files are of "
            "different runs; restore the run's own files"
        )


def _check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    for name in expected.keys() - tensors.keys():
        raise RunError(f"{path}: tensor {name!r} is missing, which the network of {CONFIG} has; {_mismatches(tensors, expected)}")
    for name in tensors.keys() - expected.keys():
        raise RunError(f"{path}: tensor {name!r} has no place in the network of {CONFIG}; {_mismatches(tensors, expected)}")
    for name, tensor in tensors.items():
        wanted = expected[name]
        if tensor.shape != wanted.shape or tensor.dtype != wanted.dtype:
            raise RunError(
                f"{path}: tensor {name!r} is {tensor.dtype} {tuple(tensor.shape)}, the network of {CONFIG} has {wanted.dtype} "
                f"{tuple(wanted.shape)}; {_mismatches(tensors, expected)}"
            )


def _mismatches(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    different = sum(
        1
        for name in tensors.keys() | expected.keys()
        if name not in tensors or name not in expected or tensors[name].shape != expected[name].shape
    )
    return f"{different} of {len(expected)} tensors differ: the files are of different runs"


def _refuse_non_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise RunError(f"{path}: tensor {name!r} holds NaN or infinite weights: training diverged; train again")


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    seen: set[int] = set()
    result: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        result[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return result


def _plan_digest(plan: Plan) -> str:
    # The reasons are text for people: rewording them does not make another model.
    return _digest(plan.model_dump(mode="json", exclude={"reasons"}, exclude_defaults=True))


def _network_digest(config: Config) -> str:
    # Without defaults, so that a field that a later version adds leaves the digest as it is.
    parts = config.model_dump(mode="json", include={"network", "attention"}, exclude_defaults=True)
    if config.network.spatial_dims == 3:  # the default when the first models were written
        parts.get("network", {}).pop("spatial_dims")
    return _digest(parts)


def _weights_digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _model_digest(metadata: Mapping[str, str]) -> str:
    return _digest({key: metadata[key] for key in ("plan", "network", "weights")})


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
