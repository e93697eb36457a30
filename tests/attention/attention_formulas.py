"""Independent NumPy formulas of the attention blocks, written from the articles and not from the torch code.

``x`` is ``(B, C, *spatial)`` in float64, ``p`` holds the block's parameters by name.
"""

import numpy as np


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def relu(a):
    return np.where(a > 0, a, 0.0)


def spread(values, x):
    """Give per-sample, per-channel values the rank of x."""
    return values.reshape(*values.shape, *(1,) * (x.ndim - 2))


def mlp(z, p, prefix=""):
    hidden = relu(z @ p[f"{prefix}fc1.weight"].T + p.get(f"{prefix}fc1.bias", 0))
    return hidden @ p[f"{prefix}fc2.weight"].T + p.get(f"{prefix}fc2.bias", 0)


def per_voxel(x, weight, bias=None):
    """A 1x1 convolution."""
    y = np.einsum("bc...,oc->bo...", x, weight.reshape(weight.shape[:2]))
    return y if bias is None else y + bias.reshape(1, -1, *(1,) * (x.ndim - 2))


def convolution(x, weight, stride=1, groups=1):
    """A zero-padded convolution with an odd kernel, one kernel offset after another."""
    rank, size = x.ndim - 2, weight.shape[2]
    pad = size // 2
    padded = np.pad(x, [(0, 0), (0, 0)] + [(pad, pad)] * rank)
    lengths = [(n - 1) // stride + 1 for n in x.shape[2:]]
    y = np.zeros((x.shape[0], weight.shape[0], *lengths))
    for offset in np.ndindex(*weight.shape[2:]):
        window = padded[(..., *(slice(o, o + (n - 1) * stride + 1, stride) for o, n in zip(offset, lengths, strict=True)))]
        taps = weight[(..., *offset)]
        y += window * spread(taps.T, x) if groups > 1 else np.einsum("bc...,oc->bo...", window, taps)
    return y


def batch_norm(x, p, prefix):
    """Batch normalisation at inference."""
    mean, var, weight, bias = (spread(p[f"{prefix}.{key}"][None], x) for key in ("running_mean", "running_var", "weight", "bias"))
    return (x - mean) / np.sqrt(var + 1e-5) * weight + bias


def flat(x):
    return x.reshape(*x.shape[:2], -1)


SQUEEZES = {
    "avg": lambda x: flat(x).sum(2) / flat(x).shape[2],
    "max": lambda x: flat(x).max(2),
    "std": lambda x: np.sqrt(flat(x).var(2) + 1e-8),
}
GATE_FUNCTIONS = {
    "sigmoid": sigmoid,
    "hard_sigmoid": lambda a: np.clip(a / 6 + 0.5, 0, 1),
    "tanh": np.tanh,
    "relu": relu,
    "2sigmoid": lambda a: 2 * sigmoid(a),
}


def cse_gate(x, p, prefix="", squeeze="avg", gate_function="sigmoid"):
    logits = sum(mlp(SQUEEZES[name](x), p, prefix) for name in squeeze.split("+"))
    return spread(GATE_FUNCTIONS[gate_function](logits), x)


def sse_gate(x, p, prefix=""):
    w = p[f"{prefix}conv.weight"].reshape(-1)
    q = sum(w[c] * x[:, c] for c in range(x.shape[1])) + p[f"{prefix}conv.bias"][0]
    return sigmoid(q)[:, None]


def cse(x, p, squeeze="avg", gate_function="sigmoid", bias=True, hidden=None):
    return x * cse_gate(x, p, "", squeeze, gate_function)


def sse(x, p):
    return x * sse_gate(x, p)


def scse(x, p, aggregation="max"):
    c, s = x * cse_gate(x, p, "channel."), x * sse_gate(x, p, "spatial.")
    if aggregation == "concat":
        return per_voxel(np.concatenate([c, s], 1), p["projection.weight"], p["projection.bias"])
    return {
        "add": c + s,
        "max": np.where(c > s, c, s),
        "multiply": c * s,
        "gate_multiply": x * cse_gate(x, p, "channel.") * sse_gate(x, p, "spatial."),
    }[aggregation]


def pe(x, p):
    axes = range(2, x.ndim)
    z = sum(np.broadcast_to(x.mean(tuple(a for a in axes if a != axis), keepdims=True), x.shape) for axis in axes)
    hidden = relu(per_voxel(z, p["conv1.weight"], p["conv1.bias"]))
    return x * sigmoid(per_voxel(hidden, p["conv2.weight"], p["conv2.bias"]))


def eca(x, p, kernel=None):
    w, z = p["conv.weight"].reshape(-1), SQUEEZES["avg"](x)
    half = len(w) // 2
    channels = z.shape[1]
    logits = np.zeros_like(z)
    for c in range(channels):
        for tap in range(len(w)):
            if 0 <= c + tap - half < channels:
                logits[:, c] += w[tap] * z[:, c + tap - half]
    return x * spread(sigmoid(logits), x)


def cbam(x, p, kernel=None):
    gated = x * spread(sigmoid(mlp(SQUEEZES["avg"](x), p, "channel.") + mlp(SQUEEZES["max"](x), p, "channel.")), x)
    descriptors = np.stack([gated.mean(1), gated.max(1)], 1)
    return gated * sigmoid(convolution(descriptors, p["spatial.weight"]))


def gather_excite(x, p, variant="theta-", extent=0):
    if extent == 0:
        return x * sigmoid(spread(SQUEEZES["avg"](x), x))
    if variant == "theta-":
        box = np.ones((1, 1, *(2 * extent - 1,) * (x.ndim - 2)))
        each = x.reshape(-1, 1, *x.shape[2:])
        gathered = convolution(each, box, extent) / convolution(np.ones_like(each), box, extent)
        gathered = gathered.reshape(*x.shape[:2], *gathered.shape[2:])
    else:
        gathered = x
        for step in range(int(np.log2(extent))):
            gathered = relu(gathered) if step else gathered
            gathered = convolution(gathered, p[f"gather.{3 * step}.weight"], 2, groups=x.shape[1])
            gathered = batch_norm(gathered, p, f"gather.{3 * step + 1}")
    if variant == "theta+":
        hidden = relu(per_voxel(relu(gathered), p["excite.1.weight"], p["excite.1.bias"]))
        gathered = per_voxel(hidden, p["excite.3.weight"], p["excite.3.bias"])
    for axis, size in enumerate(x.shape[2:], start=2):
        gathered = gathered.take([i * gathered.shape[axis] // size for i in range(size)], axis)
    return x * sigmoid(gathered)


def global_context(x, p, fusion="add"):
    logits = flat(per_voxel(x, p["mask.weight"], p["mask.bias"]))[:, 0]
    weights = np.exp(logits - logits.max(1, keepdims=True))
    context = np.einsum("bcn,bn->bc", flat(x), weights / weights.sum(1, keepdims=True))
    hidden = context @ p["fc1.weight"].T + p["fc1.bias"]
    hidden = (hidden - hidden.mean(1, keepdims=True)) / np.sqrt(hidden.var(1, keepdims=True) + 1e-5)
    hidden = relu(hidden * p["norm.weight"] + p["norm.bias"])
    term = spread(hidden @ p["fc2.weight"].T + p["fc2.bias"], x)
    return x + term if fusion == "add" else x * sigmoid(term)


def se_norm(x, p):
    mean, var = SQUEEZES["avg"](x), flat(x).var(2)
    normalised = (x - spread(mean, x)) / np.sqrt(spread(var, x) + 1e-5)
    return cse_gate(x, p, "scale.") * normalised + cse_gate(x, p, "shift.", gate_function="tanh")


def static(x, p):
    return x * spread(sigmoid(p["logit"])[None], x)


def no_squeeze(x, p):
    hidden = relu(per_voxel(x, p["conv1.weight"], p["conv1.bias"]))
    return x * sigmoid(per_voxel(hidden, p["conv2.weight"], p["conv2.bias"]))


def averaged(x, p):
    return x * spread(p["running_mean"][None], x)


FORMULAS = {
    "cse": cse,
    "sse": sse,
    "scse": scse,
    "pe": pe,
    "eca": eca,
    "cbam": cbam,
    "gather_excite": gather_excite,
    "global_context": global_context,
    "se_norm": se_norm,
    "static": static,
    "no_squeeze": no_squeeze,
    "mean": averaged,
    "shuffled": averaged,
}
"""The output of each block at inference."""


def cse_count(c, h, d):
    return 2 * c * h + h + c


COUNTS = {
    "cse": cse_count,
    "sse": lambda c, h, d: c + 1,
    "scse": lambda c, h, d: cse_count(c, h, d) + c + 1,
    "pe": cse_count,
    "eca": lambda c, h, d: {8: 3, 16: 3, 20: 3, 32: 3, 100: 3, 256: 5, 320: 5}[c],
    "cbam": lambda c, h, d: cse_count(c, h, d) + 2 * (7**2 if d == 2 else 3**3),
    "gather_excite": lambda c, h, d: 0,
    "global_context": lambda c, h, d: c + 1 + cse_count(c, h, d) + 2 * h,
    "se_norm": lambda c, h, d: 2 * cse_count(c, h, d),
    "static": lambda c, h, d: c,
    "no_squeeze": cse_count,
    "mean": cse_count,
    "shuffled": cse_count,
}
"""Parameters of each block with default options: channels, hidden width, spatial rank."""
