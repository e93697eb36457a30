"""What the contract test knows of each block beyond its class: option sets to try and which exact properties it has."""

import torch

from se_med.attention import attention_class, create_attention, list_attention

VARIANTS = {
    "cse": [{}, {"reduction": 2, "min_hidden": 4}],
    "scse": [{"aggregation": "max"}, {"aggregation": "add"}],
}
"""Option sets of the blocks that have options; all others are tried with none."""

CASES = [(name, options) for name in list_attention() for options in VARIANTS.get(name, [{}])]
RANKED = [(name, options, rank) for name, options in CASES for rank in attention_class(name).ranks]

# Blocks that lack a property; the tests demand that they lack it, since having it would mean another block.
NOT_CHANNEL_EQUIVARIANT: set[str] = set()
NOT_VOXEL_EQUIVARIANT: set[str] = set()
NOT_FLIP_EQUIVARIANT: set[str] = set()
NOT_TILING: set[str] = set()
# Here the output may exceed the input or change sign.
NOT_ATTENUATING: set[str] = set()
NOT_RANK_CONSISTENT: set[str] = set()

ZERO_WEIGHTS = {"cse": 0.5, "sse": 0.5, "scse-max": 0.5, "scse-add": 1.0}
"""The factor on x when all parameters are zero."""


def label(value):
    """Name a parameter of a test."""
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in value.items()) or "defaults"
    return str(value)


def sizes(rank, full=(6, 5, 4)):
    return full[:rank]


def make(name, channels, rank, options, seed=0, dtype=torch.float64):
    """Make a block with random parameters, large enough that gates leave the middle of their range and biased off dead ReLUs."""
    block = create_attention(name, channels, rank, **options).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in block.parameters():
            drawn = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(drawn + 0.5 if parameter.ndim == 1 else drawn)
    return block


def image(batch, channels, spatial, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scale = 1 + torch.arange(batch * channels, dtype=torch.float64).reshape(batch, channels, *(1,) * len(spatial)) / 7
    return (torch.randn(batch, channels, *spatial, generator=generator, dtype=torch.float64) * scale + 0.3).to(dtype)
