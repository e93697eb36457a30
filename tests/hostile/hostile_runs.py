"""Run folders and checkpoints that must be refused: each changes the files of a good one."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

Change = Callable[[Path], None]


class Payload:
    """Makes a folder when somebody unpickles it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder / "ran"),)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


# A run folder, as `predict` takes it. What changes weights keeps their digests right, as a forger would.

WEIGHTS = "model.safetensors"


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], **metadata: str) -> None:
    from se_med.inference.model import _weights_digest

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        old = json.loads(file.metadata()["se_med"])
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    told = {**old, "weights": _weights_digest(tensors), **metadata}
    save_file(tensors, folder / WEIGHTS, metadata={"se_med": json.dumps(told)})


def plan(folder: Path, **changes: Any) -> None:
    """Change the plan, and its digest with it."""
    from se_med.data.plan import Plan
    from se_med.inference.model import _plan_digest

    content = json.loads((folder / "plan.json").read_text()) | changes
    (folder / "plan.json").write_text(json.dumps(content))
    try:
        digest = _plan_digest(Plan.model_validate(content, strict=False))
    except ValueError:
        return
    weights(folder, lambda tensors: None, plan=digest)


def config(folder: Path, old: str, new: str) -> None:
    """Change the configuration, and its digest with it."""
    from se_med.config.load import load_config
    from se_med.errors import ConfigError
    from se_med.inference.model import _network_digest

    text = (folder / "config.yaml").read_text()
    assert old in text
    (folder / "config.yaml").write_text(text.replace(old, new))
    try:
        digest = _network_digest(load_config(folder / "config.yaml"))
    except ConfigError:
        return
    weights(folder, lambda tensors: None, network=digest)


def poison(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)][0] = float("nan")


def header(folder: Path, text: bytes, size: int | None = None) -> None:
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text) if size is None else size) + text + bytes(64))


def named_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


RUNS: dict[str, tuple[Change, str]] = {
    "no_weights": (lambda run: (run / WEIGHTS).unlink(), "no model.safetensors"),
    "no_config": (lambda run: (run / "config.yaml").unlink(), "config.yaml missing"),
    "no_plan": (lambda run: (run / "plan.json").unlink(), "plan.json missing"),
    "weights_pipe": (lambda run: named_pipe(run / WEIGHTS), "no model.safetensors"),
    "config_pipe": (lambda run: named_pipe(run / "config.yaml"), "config.yaml missing"),
    "weights_empty": (lambda run: rewrite(run / WEIGHTS, lambda data: b""), "damaged or not a safetensors file"),
    "weights_half": (
        lambda run: rewrite(run / WEIGHTS, lambda data: data[: len(data) // 2]),
        "damaged or not a safetensors file",
    ),
    "weights_text": (lambda run: rewrite(run / WEIGHTS, lambda data: b"no weights " * 99), "damaged or not a safetensors file"),
    "weights_bit": (
        lambda run: rewrite(run / WEIGHTS, lambda data: data[:-9] + bytes([data[-9] ^ 64]) + data[-8:]),
        "the weights changed since training",
    ),
    "weights_pickle": (
        lambda run: (run / WEIGHTS).write_bytes(pickle.dumps(Payload(run))),
        "damaged or not a safetensors file",
    ),
    "weights_torch": (lambda run: torch.save({"w": Payload(run)}, run / WEIGHTS), "damaged or not a safetensors file"),
    "weights_header_vast": (lambda run: header(run, b"{}", 2**62), "damaged or not a safetensors file"),
    "weights_tensor_vast": (
        lambda run: header(run, b'{"w":{"dtype":"F32","shape":[99999999999],"data_offsets":[0,399999999996]}}'),
        "damaged or not a safetensors file",
    ),
    "weights_header_deep": (
        lambda run: save_file(load_file(run / WEIGHTS), run / WEIGHTS, metadata={"se_med": "[" * 20000}),
        "reads format 1",
    ),
    "weights_nan": (lambda run: weights(run, poison), "holds NaN or infinite weights"),
    "weights_missing": (lambda run: weights(run, lambda tensors: tensors.pop(min(tensors))), "is missing"),
    "weights_more": (lambda run: weights(run, lambda tensors: tensors.update(x=torch.zeros(3))), "has no place"),
    "weights_other_shape": (
        lambda run: weights(run, lambda tensors: tensors.update({min(tensors): torch.zeros(1, 2)})),
        "the network of config.yaml has",
    ),
    "weights_doubles": (
        lambda run: weights(run, lambda tensors: tensors.update({min(tensors): tensors[min(tensors)].double()})),
        "torch.float64",
    ),
    "weights_newer": (lambda run: weights(run, lambda tensors: None, format="99"), "reads format 1"),
    "weights_foreign": (lambda run: save_file(load_file(run / WEIGHTS), run / WEIGHTS), "written by another program"),
    "labels_swapped": (
        lambda run: (run / "plan.json").write_text(
            (run / "plan.json").read_text().replace('"front": 3', '"front": 7').replace('"back": 7', '"back": 3')
        ),
        "the plan changed since training",
    ),
    "architecture": (
        lambda run: (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("norm: instance", "norm: batch")),
        "the network changed since training",
    ),
    "architecture_vast": (lambda run: config(run, "features: [4, 8]", "features: [90000, 90000]"), "far more weights"),
    "architecture_wide": (lambda run: config(run, "features: [4, 8]", "features: [2000, 4000]"), "far more weights"),
    "architecture_wrong": (lambda run: config(run, "features: [4, 8]", "features: [4, 16]"), "the network of config.yaml has"),
    "config_damaged": (lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe\x00"), "cannot be read"),
    "config_tag": (
        lambda run: (run / "config.yaml").write_text(f"name: !!python/object/apply:os.mkdir [{run / 'ran'}]\n"),
        "tag",
    ),
    "config_large": (lambda run: (run / "config.yaml").write_text("# " + "x" * 2_000_000), "larger than 1 MB"),
    "plan_text": (lambda run: (run / "plan.json").write_text("no plan"), "not a plan that se-med"),
    "plan_deep": (lambda run: (run / "plan.json").write_text("[" * 100_000), "not a plan that se-med"),
    "plan_version": (lambda run: plan(run, version=99), "not a plan that se-med"),
    "plan_spacing_0": (lambda run: plan(run, spacing=[0, 1, 1]), "not a plan that se-med"),
    "plan_spacing_negative": (lambda run: plan(run, spacing=[1, -1, 1]), "not a plan that se-med"),
    "plan_spacing_tiny": (lambda run: plan(run, spacing=[1e-30, 1, 1]), "not a plan that se-med"),
    "plan_patch_0": (lambda run: plan(run, patch=[0, 16, 16]), "not a plan that se-med"),
    "plan_patch_short": (lambda run: plan(run, patch=[16]), "not a plan that se-med"),
    "plan_label_vast": (lambda run: plan(run, labels={"front": 10**30, "back": 7}), "not a plan that se-med"),
    "plan_label_negative": (lambda run: plan(run, labels={"front": -3, "back": 7}), "not a plan that se-med"),
    "plan_normalisation": (lambda run: plan(run, normalisation=[{"method": "ct"}]), "not a plan that se-med"),
    "plan_slice_axis": (lambda run: plan(run, slice_axis=2), "not a plan that se-med"),
    "plan_classes": (lambda run: plan(run, labels={f"s{n}": n + 1 for n in range(300)}), "the network of config.yaml has"),
}

# A checkpoint, as `train --resume` takes it.


def entries(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, content: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", kind) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def instructions(path: Path, data: bytes) -> None:
    """Put another pickle in."""
    content = entries(path)
    packed(path, {name: data if name.endswith("data.pkl") else old for name, old in content.items()})


def changed(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def zip_slip(path: Path) -> None:
    content = entries(path)
    packed(path, {**content, "../../../escaped": b"x", "/tmp/escaped": b"x"})  # noqa: S108 - must not be written


def longer_storage(path: Path) -> None:
    """Let the pickle say that storages are longer than they are."""
    content = entries(path)
    name = next(name for name in content if name.endswith("/data/0"))
    packed(path, {**content, name: content[name][:4]})


def bomb(path: Path) -> None:
    content = entries(path)
    name = next(name for name in content if name.endswith("/data/0"))
    packed(path, {**content, name: bytes(40 << 20)}, zipfile.ZIP_DEFLATED)


def bit(data: bytes) -> bytes:
    changed_bytes = bytearray(data)
    changed_bytes[len(data) // 2] ^= 16
    return bytes(changed_bytes)


CHECKPOINTS: dict[str, tuple[Change, str]] = {
    "empty": (lambda path: path.write_bytes(b""), "not a readable checkpoint"),
    "text": (lambda path: path.write_bytes(b"no checkpoint " * 40), "not a readable checkpoint"),
    "half": (lambda path: rewrite(path, lambda data: data[: len(data) // 2]), "not a readable checkpoint"),
    "bit": (lambda path: rewrite(path, bit), "damaged"),
    "payload": (
        lambda path: torch.save({"version": 2, "network": Payload(path.parent)}, path),
        "more than tensors and plain values",
    ),
    "payload_alone": (lambda path: path.write_bytes(pickle.dumps(Payload(path.parent))), "not a readable checkpoint"),
    "payload_hidden": (
        lambda path: instructions(path, pickle.dumps(Payload(path.parent), protocol=4)),
        "more than tensors and plain values",
    ),
    "payload_builtin": (
        lambda path: instructions(path, b"\x80\x02cbuiltins\neval\nX\x04\x00\x00\x001+11\x85R."),
        "more than tensors and plain values",
    ),
    "memory_bomb": (
        lambda path: instructions(path, b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R."),
        "more than tensors and plain values (builtins bytearray)",
    ),
    "memo_bomb": (lambda path: instructions(path, b"\x80\x02Nr\xff\xff\xff\x7f."), "not a checkpoint of this version"),
    "stack_empty": (lambda path: instructions(path, b"\x80\x02R."), "checkpoint"),
    "no_end": (lambda path: instructions(path, b"\x80\x02}"), "checkpoint"),
    "no_storage": (lambda path: instructions(path, b"\x80\x02(NNNNNtQ."), "a tensor has no storage"),
    "zip_bomb": (bomb, "is compressed"),
    "zip_slip": (zip_slip, ""),
    "longer_storage": (longer_storage, "its tensor"),
    "entry_twice": (
        lambda path: zipfile.ZipFile(path, "a").writestr(next(iter(entries(path))), b"again"),
        "two entries have one name",
    ),
    "list": (lambda path: torch.save([1, 2], path), "not a checkpoint of this version"),
    "older": (lambda path: changed(path, lambda content: content.update(version=1)), "not a checkpoint of this version"),
    "newer": (lambda path: changed(path, lambda content: content.update(version=99)), "not a checkpoint of this version"),
    "entry_missing": (lambda path: changed(path, lambda content: content.pop("optimizer")), "are not those of a checkpoint"),
    "entry_more": (lambda path: changed(path, lambda content: content.update(more=1)), "are not those of a checkpoint"),
    "step_text": (lambda path: changed(path, lambda content: content.update(step="two")), "no checkpoint has that"),
    "step_negative": (lambda path: changed(path, lambda content: content.update(step=-2)), "no checkpoint has that"),
    "network_list": (lambda path: changed(path, lambda content: content.update(network=[1])), "no checkpoint has that"),
    "network_other": (
        lambda path: changed(path, lambda content: content["network"].update({min(content["network"]): torch.zeros(1)})),
        "is not of this network",
    ),
    "network_missing": (
        lambda path: changed(path, lambda content: content["network"].pop(min(content["network"]))),
        "is not of this network",
    ),
    "average_other": (lambda path: changed(path, lambda content: content.update(average={"x": 1})), "is not of this network"),
    "optimizer_other": (
        lambda path: changed(path, lambda content: content.update(optimizer={"state": {}, "param_groups": []})),
        "is not of this network",
    ),
    "network_nan": (
        lambda path: changed(path, lambda content: content["network"][min(content["network"])].fill_(float("nan"))),
        "",
    ),
}


def numpy_payload(folder: Path) -> bytes:
    """An array of objects, whose file is a pickle."""
    content = io.BytesIO()
    np.save(content, np.array([Payload(folder)], dtype=object), allow_pickle=True)
    return content.getvalue()
