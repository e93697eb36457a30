"""Seconds of one training step, and the memory it keeps for the backward pass, of U-Nets with and without attention and kernels.

All networks take turns in one process, so that whatever else the machine does meets all of them. The median of the rounds is
reported, and its ratio to the first network of the table. MONAI's DynUNet has the same features, strides and kernels and runs as
its users run it: float32, contiguous memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from monai.losses.dice import DiceCELoss
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn

from se_med.config.experiment import Config
from se_med.config.training import TrainingConfig
from se_med.fused import kernels
from se_med.fused import loss as fused_loss
from se_med.networks.build import build_network
from se_med.training.losses import build_loss
from se_med.training.provenance import machine, software

BLOCKS = (None, "cse", "sse", "scse", "pe", "eca", "cbam")


@contextmanager
def without_kernels() -> Any:
    """Compute by torch what the kernels would."""
    with mock.patch.object(kernels, "library", return_value=None), mock.patch.object(fused_loss, "library", return_value=None):
        yield


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Return the bytes of all storages that a forward pass keeps for the backward pass, its parameters left out."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = forward()
    del loss
    return sum(storages.values())


def build(block: str | None, features: Sequence[int], stem: Sequence[int]) -> nn.Module:
    """Return our 3D U-Net with a block in every encoder and decoder stage."""
    config = Config.model_validate(
        {
            "network": {
                "spatial_dims": 3,
                "features": list(features),
                "strides": [[2, 2, 2]] * (len(features) - 1),
                "kernels": [[3, 3, 3]] * len(features),
                "stem": list(stem),
            },
            "attention": block and {"encoder": block, "decoder": block, "bottleneck": block},
        }
    )
    return build_network(config.network, config.attention, 1, 3, seed=0)


def make_contestants(options: argparse.Namespace) -> tuple[dict[str, Callable[[], Tensor]], dict[str, nn.Module]]:
    """Return, by name, what makes the loss of a batch, and the network it goes through."""
    torch.manual_seed(0)
    image = torch.randn(options.batch, 1, *options.patch)
    label = torch.randint(0, 3, (options.batch, 1, *options.patch))
    ours = build_loss(TrainingConfig())
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)
    contestants: dict[str, Callable[[], Tensor]] = {}
    networks: dict[str, nn.Module] = {}
    for name in options.blocks:
        network = build(None if name == "None" else name, options.features, options.stem)
        for kind, context in (("kernels", nullcontext), ("torch", without_kernels)):

            def forward(network: nn.Module = network, context: Any = context) -> Tensor:
                with context():
                    with torch.autocast("cpu", torch.bfloat16):
                        logits = network(image)
                    return ours(logits, label)

            key = f"{'plain' if name == 'None' else name}, bf16, {kind}"
            contestants[key], networks[key] = forward, network
    if tuple(options.stem) == (1, 1, 1):
        size, features = [3] * len(options.features), list(options.features)
        steps = [1] + [2] * (len(features) - 1)
        dyn = DynUNet(3, 1, 3, size, steps, steps[1:], filters=features, norm_name=("INSTANCE", {"affine": True}))
        contestants["MONAI DynUNet, fp32"] = lambda: theirs(dyn(image), label)
        networks["MONAI DynUNet, fp32"] = dyn
    return contestants, networks


def table(options: argparse.Namespace, seconds: dict[str, list[float]], memory: dict[str, int]) -> str:
    """Return a Markdown table: medians, and their ratio to the first row."""
    sizes = {key: "x".join(map(str, getattr(options, key))) for key in ("patch", "stem")}
    lines = [
        f"patch {sizes['patch']}, batch {options.batch}, features {'-'.join(map(str, options.features))}, stem {sizes['stem']}, "
        f"{options.threads} threads, median of {options.rounds} rounds",
        "",
        "| network | s per step | ratio | MB kept | ratio |",
        "|---|---|---|---|---|",
    ]
    medians = {key: statistics.median(values) for key, values in seconds.items()}
    first = next(iter(medians))
    for key, value in medians.items():
        share = memory[key] / memory[first]
        lines.append(f"| {key} | {value:.3f} | {value / medians[first]:.2f} | {memory[key] / 1e6:.1f} | {share:.3f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_step", description=__doc__)
    parser.add_argument("--patch", type=int, nargs=3, default=(40, 56, 40))
    parser.add_argument("--features", type=int, nargs="+", default=(32, 64, 128))
    parser.add_argument("--stem", type=int, nargs=3, default=(2, 2, 2), help="DynUNet is left out unless it is 1 1 1")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--blocks", nargs="+", default=[str(block) for block in BLOCKS], help="None is the plain network")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "train_step")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    contestants, networks = make_contestants(options)
    memory = {key: kept_bytes(forward) for key, forward in contestants.items()}
    seconds: dict[str, list[float]] = {key: [] for key in contestants}
    for turn in range(options.rounds + 1):
        for key, forward in contestants.items():
            start = time.perf_counter()
            forward().backward()
            elapsed = time.perf_counter() - start
            networks[key].zero_grad()
            if turn:  # the first round warms up
                seconds[key].append(elapsed)
    text = table(options, seconds, memory)
    print(text)
    git = ["/usr/bin/env", "git", "rev-parse", "--short", "HEAD"]
    record = {
        "setting": vars(options) | {"output": None},
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),  # noqa: S603  (fixed)
        "machine": machine(),
        "software": software(),
        "seconds": seconds,
        "kept_bytes": memory,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0
