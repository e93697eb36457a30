"""Every attention block by name. A new block is one file and one line here."""

from __future__ import annotations

import difflib
import fnmatch
from typing import Any

from se_med.attention.attention_gate import AttentionGate
from se_med.attention.cbam import ConvolutionalGate
from se_med.attention.cse import ChannelGate
from se_med.attention.eca import EfficientChannelGate
from se_med.attention.fine_attention_gate import FineAttentionGate
from se_med.attention.gate import Gate
from se_med.attention.gather_excite import GatherExcite
from se_med.attention.global_context import GlobalContext
from se_med.attention.mean import MeanGate
from se_med.attention.no_squeeze import NoSqueeze
from se_med.attention.pe import ProjectExcite
from se_med.attention.scse import ConcurrentGate
from se_med.attention.se_norm import SENorm
from se_med.attention.shuffled import ShuffledGate
from se_med.attention.sse import SpatialGate
from se_med.attention.static import StaticGate

BLOCKS: dict[str, type[Gate]] = {
    "cse": ChannelGate,
    "sse": SpatialGate,
    "scse": ConcurrentGate,
    "pe": ProjectExcite,
    "eca": EfficientChannelGate,
    "cbam": ConvolutionalGate,
    "gather_excite": GatherExcite,
    "global_context": GlobalContext,
    "se_norm": SENorm,
    "attention_gate": AttentionGate,
    "fine_attention_gate": FineAttentionGate,
    "static": StaticGate,
    "no_squeeze": NoSqueeze,
    "shuffled": ShuffledGate,
    "mean": MeanGate,
}


def attention_class(name: str) -> type[Gate]:
    """Return the class of the block ``name``, with its kind, ranks, formula and source.

    Raises:
        ValueError: there is no block of that name.
    """
    if name not in BLOCKS:
        close = difflib.get_close_matches(name, BLOCKS, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known are {', '.join(BLOCKS)}"
        raise ValueError(f"unknown attention block {name!r}; {hint}")
    return BLOCKS[name]


def create_attention(name: str, channels: int, spatial_dims: int, **options: Any) -> Gate:
    """Make the block ``name`` for maps ``(B, channels, *spatial)``.

    Args:
        name: one of ``list_attention()``.
        channels: number of channels of the map.
        spatial_dims: 2 or 3.
        **options: what the block's class takes besides, for example ``reduction=8``.

    Raises:
        ValueError: unknown block, or a value that the block refuses.
        TypeError: an option that the block does not have.
    """
    return attention_class(name)(channels, spatial_dims, **options)


def list_attention(pattern: str = "*") -> list[str]:
    """Return the names of the blocks that match a shell-style pattern such as ``"*se"``, in alphabetical order."""
    return sorted(fnmatch.filter(BLOCKS, pattern))
