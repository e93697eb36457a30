"""The run model against independent implementations and against what is known exactly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.formula.api import mixedlm, ols
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.weightstats import ttost_paired

from se_med.study import run_model
from se_med.study.run_model import fit_run_model, planned_variance


def draw(folds=3, seeds=3, cases=20, run=0.002, case=0.008, rest=0.004, mean=0.0, seed=0, studies=()):
    generator = np.random.default_rng(seed)
    return [
        mean
        + generator.normal(0, run, (*studies, seeds, 1))
        + generator.normal(0, case, (*studies, 1, cases))
        + generator.normal(0, rest, (*studies, seeds, cases))
        for _ in range(folds)
    ]


def test_one_seed_is_the_t_test_over_fold_means():
    data = draw(folds=5, seeds=1, mean=0.003)
    model = fit_run_model(data)
    expected = stats.ttest_1samp([fold.mean() for fold in data], 0.0)
    low, high = expected.confidence_interval()
    assert model.p_different() == pytest.approx(expected.pvalue)
    assert (model.estimate - model.half_width(), model.estimate + model.half_width()) == pytest.approx((low, high))
    assert model.freedom == pytest.approx(4)


def test_one_seed_is_schuirmanns_two_one_sided_tests():
    data = draw(folds=5, seeds=1, mean=0.003, seed=3)
    model = fit_run_model(data)
    means = np.array([fold.mean() for fold in data])
    assert model.p_equivalent(0.01) == pytest.approx(ttost_paired(means, np.zeros(5), -0.01, 0.01)[0])


def test_variances_are_those_of_a_two_way_analysis_of_variance():
    (data,) = draw(folds=1, seeds=4, cases=9, run=0.01)
    seeds, cases = np.indices(data.shape)
    frame = pd.DataFrame({"d": data.ravel(), "seed": seeds.ravel(), "case": cases.ravel()})
    squares = anova_lm(ols("d ~ C(seed) + C(case)", frame).fit())["mean_sq"]
    model = fit_run_model([data])
    assert model.rest_variance == pytest.approx(squares["Residual"])
    assert model.case_variance == pytest.approx((squares["C(case)"] - squares["Residual"]) / 4)
    assert model.run_variance == pytest.approx((squares["C(seed)"] - squares["Residual"]) / 9)


@pytest.mark.parametrize(("folds", "tolerance"), [(1, 0.01), (4, 0.12)])
def test_standard_error_is_that_of_a_mixed_model(folds, tolerance):
    # In one fold the analysis of variance is REML; with more, REML weighs the parts otherwise, so the numbers are near.
    data = draw(folds=folds, seeds=4, cases=15, run=0.004, seed=5)
    rows = [
        {"d": value, "run": f"{fold}-{seed}", "case": f"{fold}-{case}", "all": 1}
        for fold, block in enumerate(data)
        for (seed, case), value in np.ndenumerate(block)
    ]
    frame = pd.DataFrame(rows)
    frame["d"] *= 1000  # its optimiser stops early with small numbers
    parts = {"run": "0 + C(run)", "case": "0 + C(case)"}
    fitted = mixedlm("d ~ 1", frame, groups="all", vc_formula=parts, re_formula="0").fit(reml=True)
    assert fit_run_model(data).error * 1000 == pytest.approx(fitted.bse["Intercept"], rel=tolerance)


def test_variance_is_right_on_average_and_freedom_tells_its_spread(monkeypatch):
    run, case, rest = 0.002, 0.01, 0.006
    data = draw(3, 3, 20, run, case, rest, studies=(20_000,))
    true = run**2 / 9 + case**2 / 60 + rest**2 / 180
    assert fit_run_model(data).folds_disagree.mean() == pytest.approx(0.1, abs=0.01)
    monkeypatch.setattr(run_model, "FOLDS_DISAGREE", 0.0)
    model = fit_run_model(data)
    assert model.estimate.var() == pytest.approx(true, rel=0.03)
    assert model.variance.mean() == pytest.approx(true, rel=0.02)
    planned, freedom = planned_variance(fit_exactly(run, case, rest), [3] * 3, [20] * 3)
    assert planned == pytest.approx(true, rel=1e-6)
    assert 2 * model.variance.mean() ** 2 / model.variance.var() == pytest.approx(freedom, rel=0.1)


def fit_exactly(run, case, rest):
    """A model with these standard deviations: they are put in place of the fitted ones."""
    model = fit_run_model(draw())
    return replace(model, run_variance=run**2, case_variance=case**2, rest_variance=rest**2)


def test_cases_alone_take_luck_of_runs_for_evidence():
    data = draw(folds=2, seeds=2, cases=50, run=0.004, case=0.005, rest=0.002, studies=(4000,))
    pooled = np.concatenate([fold.mean(-2) for fold in data], -1)
    assert np.mean(stats.ttest_1samp(pooled, 0, axis=-1).pvalue < 0.05) > 0.3
    assert np.mean(fit_run_model(data).p_different() < 0.05) < 0.065


def test_folds_that_disagree_are_taken_alone():
    data = [fold + shift for fold, shift in zip(draw(case=0.002), (-0.03, 0.0, 0.03), strict=True)]
    model = fit_run_model(data)
    assert model.folds_disagree
    assert model.freedom == 2
    expected = stats.ttest_1samp([fold.mean() for fold in data], 0.0)
    assert model.p_different() == pytest.approx(expected.pvalue)
    assert not fit_run_model(draw(case=0.002, seed=1)).folds_disagree


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 10_000),
    st.lists(st.tuples(st.integers(1, 4), st.integers(2, 9)), min_size=1, max_size=5).filter(
        lambda sizes: sum(s for s, _ in sizes) > 1
    ),
    st.floats(-0.05, 0.05),
    st.floats(0.1, 50),
)
def test_shift_scale_sign_and_order_of_folds(seed, sizes, shift, scale):
    generator = np.random.default_rng(seed)
    data = [generator.normal(0, 0.01, size) + generator.normal(0, 0.005, (size[0], 1)) for size in sizes]
    model = fit_run_model(data)
    moved = fit_run_model([scale * -fold + shift for fold in reversed(data)])
    assert moved.estimate == pytest.approx(-scale * model.estimate + shift, abs=1e-9)
    assert moved.error == pytest.approx(scale * model.error, rel=1e-6)
    assert moved.freedom == pytest.approx(model.freedom, rel=1e-6)
    assert model.freedom > 0


def test_many_studies_at_once_are_each_as_alone():
    data = draw(folds=2, seeds=3, cases=7, studies=(5,))
    together = fit_run_model(data)
    for number in range(5):
        alone = fit_run_model([fold[number] for fold in data])
        assert together.variance[number] == pytest.approx(alone.variance)
        assert together.p_different()[number] == pytest.approx(alone.p_different())


def test_equal_arms_differ_surely_by_nothing():
    model = fit_run_model([np.zeros((2, 5))] * 2)
    assert model.half_width() == 0
    assert model.p_different() == 1
    assert model.p_equivalent(0.001) == 0


def test_one_run_pair_has_no_interval():
    assert np.isnan(fit_run_model([np.ones((1, 5))]).variance)
    with pytest.raises(ValueError, match="at least one seed"):
        fit_run_model([np.ones((0, 5))])
