"""Initial weights that depend on the seed and on each parameter's own name, and on nothing else in the network."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import nn

from se_med.attention import Gate
from se_med.networks.layers import LEAKY_SLOPE

_NORMS = (nn.GroupNorm, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@torch.no_grad()
def initialise(network: nn.Module, seed: int) -> None:
    """Draw every parameter of ``network`` from a generator of its own, keyed by ``(seed, parameter name)``.

    Two networks that share a parameter, by name and shape, therefore start with bitwise equal values in it, whatever else they
    are made of. The distributions are the usual ones:

    - convolutions: normal with the variance of He et al. 2015 (arXiv 1502.01852) for a leaky ReLU of slope 0.01, fan-in as torch
      counts it, biases 0, as in nnU-Net. One slope for all activations, so that networks that differ in their activation alone
      start equal, too; the gain of a ReLU is the same to 5e-5;
    - norms: weights 1, biases 0;
    - linear layers and convolutions inside attention gates: weights as torch has them, uniform between -1/sqrt(fan-in) and
      1/sqrt(fan-in); biases 0, as in MONAI's SENet. Torch's default for biases depends on the layer's fan-in, which a bias
      of equal shape in another network need not share. Other parameters of gates keep the constant their block gives them.

    Raises:
        TypeError: a parameter of a layer for which there is no rule.
    """
    gates = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, Gate))
    for prefix, module in network.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{key}" if prefix else key
            in_gate = name.startswith(gates)
            if isinstance(module, _NORMS):
                parameter.fill_(1.0 if key == "weight" else 0.0)
            elif isinstance(module, _CONVOLUTIONS) or (in_gate and isinstance(module, nn.Linear)):
                if key == "bias":
                    parameter.zero_()
                elif in_gate:
                    bound = 1 / math.sqrt(parameter[0].numel())
                    parameter.uniform_(-bound, bound, generator=_generator(seed, name))
                else:
                    nn.init.kaiming_normal_(parameter, a=LEAKY_SLOPE, generator=_generator(seed, name))
            elif not isinstance(module, Gate):
                raise TypeError(f"{name}: no rule for the parameters of {type(module).__name__}")


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed} {name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
