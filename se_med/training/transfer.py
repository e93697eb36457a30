"""Starting from another run's weights: what fits is taken, what was and was not is said, and parts can be frozen."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from se_med.errors import UsageError
from se_med.inference.model import AUXILIARY_HEAD, load_model

log = logging.getLogger(__name__)


def take_weights(network: nn.Module, run: Path) -> tuple[str, ...]:
    """Copy every tensor of a finished run that has the same name and shape in the network.

    A plain run fits an attention network of the same plan in all but the gates, since gates rename nothing.

    Args:
        network: changed in place.
        run: folder of a finished run.

    Returns:
        Names of the network's tensors that were not in the run, or in another shape; they keep their start.

    Raises:
        UsageError: there is no such folder, or not one tensor fits.
        RunError: the run's model is incomplete or damaged.
    """
    given = load_model(run, "cpu").network.state_dict()
    own = network.state_dict()
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    if not fitting:
        raise UsageError(
            f"training.init_from: {run}: no tensor has the name and shape of one of this network; name a run of a like one"
        )
    network.load_state_dict(fitting, strict=False)
    kept = tuple(name for name in own if name not in fitting)
    unused = [name for name in given if name not in fitting]
    heads = [name for name in kept if AUXILIARY_HEAD.match(name)]
    others = [name for name in kept if name not in heads]
    log.info("start: %d of %d tensors from %s", len(fitting), len(own), run)
    for what, names in (
        ("not in that run, started anew", others),
        ("of auxiliary heads (deep supervision) not loaded, since finished runs do not store them", heads),
        ("of that run not used", unused),
    ):
        if names:
            log.info("start: %d tensors %s: %s", len(names), what, _listed(names))
    return kept


def freeze(network: nn.Module, patterns: Sequence[str]) -> tuple[str, ...]:
    """Keep parameters whose names match a wildcard pattern (``encoder.*``) from being trained.

    Returns:
        Their names.

    Raises:
        UsageError: a pattern matches no parameter, or nothing is left to train.
    """
    names = [name for name, _ in network.named_parameters()]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            parts = sorted({name.split(".")[0] for name in names})
            raise UsageError(f"training.freeze: {pattern!r} matches no parameter; they begin with {', '.join(parts)}")
    frozen = tuple(name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns))
    if len(frozen) == len(names):
        raise UsageError(f"training.freeze: {', '.join(patterns)} leaves nothing to train")
    for name, parameter in network.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
    if frozen:
        log.info("frozen: %d of %d parameters", len(frozen), len(names))
    return frozen


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
