"""Control: a channel gate frozen at its training mean."""

from __future__ import annotations

from se_med.attention.averaged import AveragedGate


class MeanGate(AveragedGate):
    """Trained as cse, but at inference every image gets the mean gate of training.

    What is lost against cse at inference is what the gates' dependence on the single image is worth. Arguments as for
    AveragedGate.
    """

    kind = "control"
    formula = "training: y = x * c; inference: y = x * running mean of c, with c the gate of cse"
    source = "control of this toolkit"
    extension = "the whole block"
