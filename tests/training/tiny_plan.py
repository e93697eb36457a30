"""A plan for what needs one but no data."""

from __future__ import annotations

from se_med.data.plan import Normalisation, Plan


def tiny_plan(**changes: object) -> Plan:
    plan = Plan(
        spatial_dims=3,
        slice_axis=None,
        channels=("c0",),
        labels={"a": 1, "b": 2},
        spacing=(1.0, 1.0, 1.0),
        normalisation=(Normalisation(method="zscore"),),
        patch=(16, 16, 16),
        batch_size=2,
        features=(4, 8),
        strides=((2, 2, 2),),
        kernels=((3, 3, 3),) * 2,
        stem=(1, 1, 1),
        flip_axes=(),
        median_shape=(16, 16, 16),
        cases=1,
    )
    return plan.model_copy(update=changes)
