"""How much memory training takes: estimated from the network before anything is computed."""

from __future__ import annotations

import torch

from se_med.config.experiment import Config
from se_med.data.memory import total_memory
from se_med.data.plan import Plan
from se_med.data.planning import planned_device
from se_med.inference.precision import resolve_device, resolve_precision
from se_med.networks.build import build_network
from se_med.networks.cost import measure_network

SHARE_OF_DEVICE = 0.8
"""Share of the device's memory that is planned for where no limit is given."""
LIBRARIES = {"cpu": 650_000_000, "cuda": 500_000_000}
"""Bytes that a process takes before the first step: the libraries on a processor, the context on a GPU."""
COPIES = 5
"""Times that every parameter is held in float32: weights, gradients, both moments of AdamW, and the average. Muon has one moment,
and while it makes a step two copies more, but no activations."""
KEPT = {"fp32": 2.2, "bf16": 1.3}
"""Peak of a step as a multiple of the float32 activations that are kept for the backward pass: the most of five 3D networks
of 0.1 to 16 million parameters, measured on a processor (the least: fp32 1.0, bf16 0.8)."""


def estimate_memory(config: Config, plan: Plan) -> int:
    """Return the bytes that training takes at its peak, of the device's memory.

    The network is passed through without values, so this costs neither time nor memory of that size.

    Args:
        config: with everything planned filled in.
        plan: gives channels, classes, patch and batch.
    """
    device = resolve_device(config.training.device)
    network = build_network(config.network, config.attention, len(plan.channels), plan.num_classes, config.seed)
    cost = measure_network(network, len(plan.channels), plan.patch, max(1, plan.batch_size // config.training.processes)).total
    step = COPIES * 4 * cost.parameters + KEPT[resolve_precision(config.training.precision, device)] * cost.activation_bytes
    return LIBRARIES.get(device.type, 0) + round(step)


def memory_budget(config: Config) -> int:
    """Return the bytes that training may take: the limit of the user, else 80 % of what the device has."""
    if config.training.max_memory is not None:
        return int(config.training.max_memory * 2**30)
    total = torch.cuda.get_device_properties(0).total_memory if _on_gpu(config) else total_memory()
    return int(SHARE_OF_DEVICE * total)


def is_limited(config: Config) -> bool:
    """Tell whether memory can be short: a limit is given, or the device is a GPU. What is planned for a processor is small."""
    return config.training.max_memory is not None or _on_gpu(config)


def _on_gpu(config: Config) -> bool:
    return planned_device(config) == "gpu" and torch.cuda.is_available()
