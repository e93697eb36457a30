"""Seconds of one training step, and the memory it keeps for the backward pass: ours, with every attention block, and the peers'.

A step is forward pass, loss and backward pass. All networks take turns in one process, so that whatever else the machine does
meets all of them; every block is timed between two steps of the plain network, and its ratio is the median over rounds of its
time to the mean of these two. The peers have the same features, strides and kernels and run as their users run them: float32,
contiguous memory, torch's instance norm. A peer that is not installed (``pip install 'se-med[bench]'``) is left out, and the
table says so.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from monai.losses.dice import DiceCELoss
from torch import Tensor, nn

from benchmarks._records import write_record
from se_med.config.experiment import Config
from se_med.config.training import TrainingConfig
from se_med.fused import convolution, kernels, winograd
from se_med.fused import loss as fused_loss
from se_med.inference.precision import Precision, autocast, resolve_precision
from se_med.networks.build import build_network
from se_med.training.losses import build_loss

BLOCKS = ("cse", "sse", "scse", "pe", "cbam", "eca")
PLAIN = "plain"
FASTER = 2.5
"""How much faster than nnU-Net's network the plain network is meant to be."""
BARS = {"cse": (1.03, 1.02), "sse": (1.08, 1.02), "scse": (1.08, 1.02), "pe": (1.25, 1.10), "cbam": (1.25, 1.10)}
"""What a block may cost at most, times the plain network: of time, and of memory kept."""


@dataclass
class Contestant:
    """A network, how a step of it is made, and what was measured.

    Attributes:
        forward: makes the loss of a batch.
        network: the network that it goes through.
        seconds: of each round.
        ratios: of its time to that of the plain network beside it, of each round.
        kept: bytes kept for the backward pass.
    """

    forward: Callable[[], Tensor]
    network: nn.Module
    seconds: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    kept: int = 0


@contextmanager
def without_kernels() -> Any:
    """Compute by torch what the kernels would."""
    with ExitStack() as stack:
        for module in (kernels, convolution, winograd, fused_loss):
            stack.enter_context(mock.patch.object(module, "library", return_value=None))
        yield


def by_torch(network: nn.Module) -> nn.Module:
    """Return a copy for use without kernels, with weights as torch lays them out."""
    return copy.deepcopy(network).to(memory_format=torch.contiguous_format)


def kept_bytes(forward: Callable[[], Tensor], network: nn.Module | None = None) -> int:
    """Return the bytes of all storages that a forward pass keeps for the backward pass, parameters left out."""
    storages: dict[int, int] = {}
    known = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()} if network is not None else set()

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter) and tensor.untyped_storage().data_ptr() not in known:
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


def with_nnunet(features: Sequence[int]) -> nn.Module:
    """Return nnU-Net's plain U-Net."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    network: nn.Module = PlainConvUNet(
        *(1, len(features), list(features), nn.Conv3d, 3, [1] + [2] * (len(features) - 1), 2, 3, 2),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
    )
    return network


def with_monai(features: Sequence[int]) -> nn.Module:
    """Return MONAI's DynUNet."""
    from monai.networks.nets.dynunet import DynUNet

    steps = [1] + [2] * (len(features) - 1)
    norm = ("INSTANCE", {"affine": True})
    network: nn.Module = DynUNet(3, 1, 3, [3] * len(features), steps, steps[1:], filters=list(features), norm_name=norm)
    return network


def make_contestants(options: argparse.Namespace) -> tuple[dict[str, Contestant], dict[str, Contestant], dict[str, str]]:
    """Return by name our networks, the peers, and the reasons why some are missing."""
    torch.manual_seed(0)
    image = torch.randn(options.batch, 1, *options.patch)
    label = torch.randint(0, 3, (options.batch, 1, *options.patch))
    ours = build_loss(TrainingConfig())
    theirs = DiceCELoss(softmax=True, to_onehot_y=True, include_background=False, batch=True)

    def step(
        network: nn.Module, precision: Precision, loss: Callable[[Tensor, Tensor], Tensor], context: Any = nullcontext
    ) -> Contestant:
        def forward() -> Tensor:
            with context():
                with autocast(precision, torch.device("cpu")):
                    logits = network(image)
                return loss(logits, label)

        return Contestant(forward, network)

    own = {block: step(build(None if block == PLAIN else block, options.features, options.stem), options.precision, ours)
           for block in (PLAIN, *options.blocks)}  # fmt: skip
    others: dict[str, Contestant] = {}
    missing: dict[str, str] = {}
    if options.precision != "fp32":
        others["plain, fp32"] = step(own[PLAIN].network, "fp32", ours)
    if options.torch:
        others |= {
            f"{block}, by torch": step(by_torch(own[block].network), options.precision, ours, without_kernels) for block in own
        }
    if tuple(options.stem) == (1, 1, 1):
        for name, make in (("nnU-Net PlainConvUNet, fp32", with_nnunet), ("MONAI DynUNet, fp32", with_monai)):
            try:
                others[name] = step(make(options.features), "fp32", theirs)
            except ImportError as error:
                missing[name] = f"not installed ({error.name})"
    else:
        missing["peers"] = "have no stem: give --stem 1 1 1"
    return own, others, missing


def time_step(contestant: Contestant) -> float:
    """Return the seconds of one step."""
    start = time.perf_counter()
    contestant.forward().backward()
    elapsed = time.perf_counter() - start
    contestant.network.zero_grad()
    return elapsed


def measure(own: dict[str, Contestant], others: dict[str, Contestant], rounds: int) -> None:
    """Time all networks in turn, and a round more to warm up."""
    for contestant in (*own.values(), *others.values()):
        contestant.kept = kept_bytes(contestant.forward, contestant.network)
        time_step(contestant)
    for _ in range(rounds):
        before = time_step(own[PLAIN])
        own[PLAIN].seconds.append(before)
        for name, contestant in own.items():
            if name == PLAIN:
                continue
            contestant.seconds.append(time_step(contestant))
            after = time_step(own[PLAIN])
            own[PLAIN].seconds.append(after)
            contestant.ratios.append(contestant.seconds[-1] / ((before + after) / 2))
            before = after
        for contestant in others.values():
            contestant.seconds.append(time_step(contestant))
            contestant.ratios.append(contestant.seconds[-1] / before)


def table(options: argparse.Namespace, contestants: dict[str, Contestant], missing: dict[str, str]) -> str:
    """Return a Markdown table: medians, ratios to the plain network, and whether each is within its bar."""
    sizes = {key: "x".join(map(str, getattr(options, key))) for key in ("patch", "stem")}
    lines = [
        f"Patch {sizes['patch']}, batch {options.batch}, features {'-'.join(map(str, options.features))}, stem {sizes['stem']}, "
        f"{options.threads} threads, median of {options.rounds} rounds; {options.precision} and kernels where nothing else is "
        "said.",
        "",
        "| network | parameters | s per step | times plain | bar | MB kept | times plain | bar |",
        "|---|---|---|---|---|---|---|---|",
    ]
    plain = contestants[PLAIN]
    for name, found in contestants.items():
        share, kept = statistics.median(found.ratios or [1.0]), found.kept / plain.kept
        bars = BARS.get(name, ())
        if name.startswith("nnU-Net"):
            cells = [f"at least {FASTER}, {'met' if share >= FASTER else 'missed'}", ""]
        else:
            cells = [f"{bar}, {'met' if value <= bar else 'missed'}" for value, bar in zip((share, kept), bars, strict=False)]
        time_cell, memory_cell = cells or ("", "")
        size = sum(parameter.numel() for parameter in found.network.parameters())
        seconds = statistics.median(found.seconds)
        lines.append(
            f"| {name} | {size} | {seconds:.3f} | {share:.3f} | {time_cell} "
            f"| {found.kept / 1e6:.1f} | {kept:.3f} | {memory_cell} |"
        )
    return "\n".join([*lines, *(f"| {name} | {reason} | | | | | | |" for name, reason in missing.items())]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks train_step", description=__doc__)
    parser.add_argument("--patch", type=int, nargs=3, default=(40, 56, 40))
    parser.add_argument("--features", type=int, nargs="+", default=(32, 64, 128, 256))
    parser.add_argument("--stem", type=int, nargs=3, default=(1, 1, 1), help="the peers are left out unless it is 1 1 1")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--blocks", nargs="*", default=BLOCKS)
    parser.add_argument("--torch", action="store_true", help="also time our networks without kernels")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "train_step")
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto", help="of our networks")
    options = parser.parse_args(arguments)
    options.precision = resolve_precision(options.precision, torch.device("cpu"))
    torch.set_num_threads(options.threads)
    own, others, missing = make_contestants(options)
    measure(own, others, options.rounds)
    contestants = own | others
    measured = {
        name: {"seconds": found.seconds, "ratios": found.ratios, "kept": found.kept} for name, found in contestants.items()
    }
    write_record(options.output, table(options, contestants, missing), vars(options) | {"output": None}, measured | missing)
    return 0
