"""A forward pass without values: which module multiplies how often, and what it keeps for the backward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor, UntypedStorage, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

Place = tuple[str, str]
"""Name of a stage and of a gate in it; the gate is empty for the stage's own layers."""

NOWHERE: Place = ("", "")


class Ledger:
    """Charges multiplications and kept memory to the place that is at work.

    Attributes:
        macs: multiplications with an addition, of convolutions and matrix products, for the whole batch.
        kept: bytes that are kept for the backward pass, each storage counted once, where it is kept first.
    """

    def __init__(self) -> None:
        self.macs: Counter[Place] = Counter()
        self.kept: Counter[Place] = Counter()
        self._stack = [NOWHERE]
        self._counter = FlopCounterMode(display=False)
        self._settled = 0
        self._storages: dict[int, UntypedStorage] = {}

    def watch(self, module: nn.Module, place: Callable[[Place], Place]) -> None:
        """Charge what happens inside ``module`` to ``place(the place around it)``."""

        def enter(module: nn.Module, inputs: object) -> None:
            self._settle()
            self._stack.append(place(self._stack[-1]))

        def leave(module: nn.Module, inputs: object, output: object) -> None:
            self._settle()
            self._stack.pop()

        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave)

    def trace(self, module: nn.Module, shapes: Sequence[Sequence[int]], *, inside: bool) -> None:
        """Run ``module`` as it is on float32 inputs without values, so at no cost in time or memory.

        Parameters, buffers and inputs are there anyway: keeping them is not counted.

        Args:
            module: what to run.
            shapes: the shape of each input.
            inside: whether the inputs come from other layers, which need their gradients, and not from the data.
        """
        fake = FakeTensorMode()
        real = chain(module.named_parameters(), module.named_buffers())
        state: dict[str, Tensor] = {name: fake.from_tensor(tensor) for name, tensor in real}
        with fake, self._counter, torch.enable_grad():
            inputs = tuple(torch.empty(*shape, requires_grad=inside) for shape in shapes)
            for tensor in (*state.values(), *inputs):
                self._is_new(tensor.untyped_storage())
            with torch.autograd.graph.saved_tensors_hooks(self._keep, _unchanged):
                torch.func.functional_call(module, state, inputs)
        self._settle()

    def _keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if self._is_new(storage):
            self.kept[self._stack[-1]] += storage.nbytes()
        return tensor

    def _is_new(self, storage: UntypedStorage) -> bool:
        # An address is unique as long as its storage lives, which the dictionary makes sure of.
        known = len(self._storages)
        self._storages[storage._cdata] = storage
        return len(self._storages) > known

    def _settle(self) -> None:
        total = self._counter.get_total_flops() // 2
        self.macs[self._stack[-1]] += total - self._settled
        self._settled = total


def _unchanged(tensor: Tensor) -> Tensor:
    return tensor
