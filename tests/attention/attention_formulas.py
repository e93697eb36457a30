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
    hidden = relu(z @ p[f"{prefix}fc1.weight"].T + p[f"{prefix}fc1.bias"])
    return hidden @ p[f"{prefix}fc2.weight"].T + p[f"{prefix}fc2.bias"]


def cse_gate(x, p, prefix=""):
    z = x.reshape(*x.shape[:2], -1).sum(2) / np.prod(x.shape[2:])
    return spread(sigmoid(mlp(z, p, prefix)), x)


def sse_gate(x, p, prefix=""):
    w = p[f"{prefix}conv.weight"].reshape(-1)
    q = sum(w[c] * x[:, c] for c in range(x.shape[1])) + p[f"{prefix}conv.bias"][0]
    return sigmoid(q)[:, None]


def cse(x, p):
    return x * cse_gate(x, p)


def sse(x, p):
    return x * sse_gate(x, p)


def scse(x, p, aggregation="max"):
    c, s = x * cse_gate(x, p, "channel."), x * sse_gate(x, p, "spatial.")
    return c + s if aggregation == "add" else np.where(c > s, c, s)


FORMULAS = {"cse": cse, "sse": sse, "scse": scse}
"""The output of each block."""

COUNTS = {
    "cse": lambda c, h, d: 2 * c * h + h + c,
    "sse": lambda c, h, d: c + 1,
    "scse": lambda c, h, d: 2 * c * h + h + 2 * c + 1,
}
"""Parameters of each block with default options: channels, hidden width, spatial rank."""
