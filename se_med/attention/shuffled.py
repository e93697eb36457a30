"""Control: channel gates that belong to another case."""

from __future__ import annotations

from torch import Tensor

from se_med.attention.averaged import AveragedGate


class ShuffledGate(AveragedGate):
    """As cse, but while training each case is weighed by the gates of the case before it in the batch.

    Gates, parameters and gradients have the distributions of cse; only their match with the image is broken. At inference every
    image gets the mean gate of training. Arguments as for AveragedGate.
    """

    kind = "control"
    formula = "training: y_b = x_b * c_(b-1); inference: y = x * running mean of c, with c the gate of cse"
    source = "control of this toolkit"
    extension = "the whole block"

    def weigh(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the weight of each channel, of the previous case of the batch while training.

        Raises:
            ValueError: a training batch of one case.
        """
        if self.training and x.shape[0] == 1:
            raise ValueError("batch size 1: shuffled gates need another case in the batch; use a batch size of at least 2")
        gate = super().weigh(x, source, mask)
        return gate.roll(1, 0) if self.training else gate
