"""What the contract test knows of each block beyond its class: option sets to try and which exact properties it has."""

import torch

from se_med.attention import attention_class, create_attention, list_attention

VARIANTS = {
    "cse": [
        {},
        {"reduction": 2, "min_hidden": 4},
        {"squeeze": "max", "gate_function": "2sigmoid", "bias": False},
        {"squeeze": "std", "gate_function": "hard_sigmoid", "hidden": 5},
        {"squeeze": "avg+max", "gate_function": "tanh"},
        {"gate_function": "relu"},
    ],
    "scse": [{"aggregation": how} for how in ("max", "add", "multiply", "gate_multiply", "concat")],
    "eca": [{}, {"kernel": 5}],
    "cbam": [{}, {"kernel": 5}],
    "gather_excite": [
        {},
        {"extent": 2},
        {"variant": "theta", "extent": 4},
        {"variant": "theta+", "extent": 2},
    ],
    "global_context": [{}, {"fusion": "scale"}],
}
"""Option sets of the blocks that have options; all others are tried with none."""

# Blocks with a second input have tests of their own.
CASES = [
    (name, options) for name in list_attention() if attention_class(name).kind != "skip" for options in VARIANTS.get(name, [{}])
]
RANKED = [(name, options, rank) for name, options in CASES for rank in attention_class(name).ranks]


def windowed(name, options):
    """Whether the block looks at neighbourhoods, with borders."""
    return name == "cbam" or (name == "gather_excite" and "extent" in options)


def constant(name):
    """Whether the gate is the same for every input at inference, on purpose."""
    return name in ("static", "mean", "shuffled")


def lacks(name, options):
    """Exact properties that a block lacks; the tests demand that it lacks them, since having them would mean another block."""
    missing = set()
    if name == "eca":
        missing.add("channel order")
    if name == "pe" or windowed(name, options):
        missing.add("voxel order")
    if windowed(name, options):
        missing |= {"tiling", "flips"}
    if name == "pe":
        missing.add("rank")
    return missing


def local(name, options):
    """Whether zeros beside the map make no difference to a voxel's output: it does not look there, or at the maximum only."""
    return name in ("sse", "no_squeeze") or constant(name) or options.get("squeeze") == "max"


def attenuates(name, options):
    """Whether the gate is a weight between 0 and 1."""
    signed = options.get("gate_function") in ("tanh", "relu", "2sigmoid")
    return not (signed or name == "se_norm" or options.get("aggregation") in ("multiply", "concat", "add") or adds(name, options))


def adds(name, options):
    """Whether the gate is a term rather than a factor."""
    return name == "global_context" and options.get("fusion") != "scale"


def is_factor(name, options):
    return not adds(name, options) and name != "se_norm" and options.get("aggregation") != "concat"


def zeroed(name, options, x):
    """The output when all parameters are zero."""
    if name == "se_norm":
        return 0.5 * torch.group_norm(x, x.shape[1])
    if name == "gather_excite" and options.get("variant", "theta-") == "theta-":
        return None  # no parameters
    if options.get("aggregation") == "multiply":
        return 0.25 * x * x
    if adds(name, options) or options.get("aggregation") == "add" or options.get("gate_function") == "2sigmoid":
        return x
    if options.get("gate_function") in ("tanh", "relu") or options.get("aggregation") == "concat":
        return 0 * x
    return 0.25 * x if name == "cbam" or options.get("aggregation") == "gate_multiply" else 0.5 * x


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
        for buffer in block.buffers():
            if buffer.is_floating_point():
                buffer.copy_(0.1 + torch.rand(buffer.shape, generator=generator, dtype=torch.float64))
    return block.eval()


def image(batch, channels, spatial, seed=1, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scale = 1 + torch.arange(batch * channels, dtype=torch.float64).reshape(batch, channels, *(1,) * len(spatial)) / 7
    return (torch.randn(batch, channels, *spatial, generator=generator, dtype=torch.float64) * scale + 0.3).to(dtype)
