"""Attention blocks in a network of any library: put behind the modules whose names match a pattern."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn

from se_med.attention.gate import Gate
from se_med.attention.registry import attention_class, create_attention

SUBMODULE = "attention"
"""Name under which a module holds the block that follows it."""
DECLARED = ("out_channels", "num_features", "num_channels")
"""Where convolutions and norms of torch, and many modules of others, say how many channels they give."""


def insert_attention(
    network: nn.Module, pattern: str, block: str, spatial_dims: int, probe: Tensor | None = None, **options: Any
) -> list[str]:
    """Let the output of every module of ``network`` whose name matches ``pattern`` pass through an attention block of its own.

    The block becomes the submodule ``attention`` of the module that it follows, so no other parameter is renamed: weights of the
    network without attention load with ``strict=False``, and with ``identity_start=True`` give the same output at first. A
    module that the network calls several times, or holds under several names, has one block. The network can be copied, saved
    by its state dict and exported as before; it is changed as a whole or, on an error, not at all.

    Args:
        network: the network to change.
        pattern: dotted names as ``network.named_modules()`` gives them, with shell wildcards inside each part; ``**`` stands for
            any number of parts. ``"downsamples.*"`` is every child of ``downsamples``, ``"**.conv2"`` every module ``conv2``.
        block: name of a block; neither one with a second input (kind ``skip``) nor one that replaces a norm (``normalisation``).
        spatial_dims: 2 for maps ``(B, C, X, Y)``, 3 for ``(B, C, X, Y, Z)``.
        probe: an input of the network. It is run once, in evaluation mode, to see how many channels each module gives. Without
            one, the modules must say so themselves: ``out_channels``, ``num_features`` or ``num_channels``.
        **options: options of the block.

    Returns:
        The names of the modules that got a block, in the network's order.

    Raises:
        ValueError: nothing matches, a module has a block already or does not give one map of features, its number of channels
            is not known, the block cannot stand there or refuses an option, or it would follow an instance norm over which its
            channel gates are constants.
        TypeError: an option that the block does not have.
    """
    kind = attention_class(block).kind
    if kind in ("skip", "normalisation"):
        reason = "needs a second input" if kind == "skip" else "takes the place of a norm"
        raise ValueError(f"{block}: the block {reason} and cannot follow a module")
    targets = _matching(network, pattern)
    for name, target in targets.items():
        if hasattr(target, SUBMODULE):
            raise ValueError(f"{name}: the module has a part named {SUBMODULE!r} already")
    channels = _declared(targets) if probe is None else _probed(network, targets, probe, spatial_dims)
    gates = {name: create_attention(block, channels[name], spatial_dims, **options) for name in targets}
    for name, target in targets.items():
        if _ends_in_instance_norm(target) and gates[name].moments_only:
            raise ValueError(
                f"{name}: {block} squeezes the mean or deviation of each channel, which right behind an instance norm is the "
                "same for every image; let it follow the activation, or take squeeze='max' or a spatial block"
            )
    for name, target in targets.items():
        _attach(target, gates[name], next(target.parameters(), next(network.parameters(), None)))
    return list(targets)


def _matching(network: nn.Module, pattern: str) -> dict[str, nn.Module]:
    """Return the modules that match, each under the first of its names that does."""
    names = [name for name, _ in network.named_modules(remove_duplicate=False) if name]
    found: dict[str, nn.Module] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        if name and _fits(name.split("."), pattern.split(".")) and all(module is not other for other in found.values()):
            found[name] = module
    if not found:
        plain = pattern.replace("*", "")
        near = difflib.get_close_matches(plain, names, n=5, cutoff=0.4) or names[:5]
        raise ValueError(f"no module matches {pattern!r}; near it are {', '.join(near) or 'none: the network has no submodules'}")
    return found


def _fits(name: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "**":
        return any(_fits(name[start:], pattern[1:]) for start in range(len(name) + 1))
    return bool(name) and fnmatchcase(name[0], pattern[0]) and _fits(name[1:], pattern[1:])


def _declared(targets: Mapping[str, nn.Module]) -> dict[str, int]:
    channels = {}
    for name, target in targets.items():
        told = [value for key in DECLARED if isinstance(value := getattr(target, key, None), int)]
        if not told:
            raise ValueError(f"{name}: {type(target).__name__} does not say how many channels it gives; pass a probe input")
        channels[name] = told[0]
    return channels


def _probed(network: nn.Module, targets: Mapping[str, nn.Module], probe: Tensor, spatial_dims: int) -> dict[str, int]:
    """Run the probe through the network and return the number of channels that each target gives."""
    seen: dict[nn.Module, list[object]] = {target: [] for target in targets.values()}

    def record(module: nn.Module, inputs: object, output: object) -> None:
        seen[module].append(output.shape if isinstance(output, Tensor) else type(output).__name__)

    training = [module for module in network.modules() if module.training]
    handles = [target.register_forward_hook(record) for target in seen]
    try:
        network.eval()
        with torch.no_grad():
            network(probe)
    finally:
        for handle in handles:
            handle.remove()
        for module in training:
            module.training = True
    channels = {}
    for name, target in targets.items():
        shapes = seen[target]
        if not shapes:
            raise ValueError(f"{name}: the probe does not pass through this module")
        maps = [shape for shape in shapes if isinstance(shape, torch.Size) and len(shape) == 2 + spatial_dims]
        if len(maps) < len(shapes) or len({shape[1] for shape in maps}) > 1:
            listed = ", ".join(str(list(shape)) if isinstance(shape, torch.Size) else str(shape) for shape in shapes)
            raise ValueError(f"{name}: gives {listed}, not a map (B, C, {', '.join('XYZ'[:spatial_dims])}) of one width C")
        channels[name] = maps[0][1]
    return channels


def _ends_in_instance_norm(module: nn.Module) -> bool:
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, nn.InstanceNorm2d | nn.InstanceNorm3d)


def _attach(target: nn.Module, gate: Gate, like: nn.Parameter | None) -> None:
    if like is not None:
        gate.to(like.device, like.dtype)
    target.add_module(SUBMODULE, gate.train(target.training))
    # A Sequential calls its parts one after the other and so calls the block by itself.
    if type(target).forward is not nn.Sequential.forward:
        target.register_forward_hook(_attend)


def _attend(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    # The block is looked up in the module, so that a copy of the network uses its own.
    gated: Tensor = cast("Gate", getattr(module, SUBMODULE))(output)
    return gated
