"""Associations that are there are found, those that are not are seldom claimed, and tables are read as they are meant."""

import numpy as np
import pytest
from explain_model import make_plan, make_predictor
from scipy import stats

from se_med.errors import UsageError
from se_med.explain.collect import CaseGates, ClassMeans, GateCase, Moments, find_watched
from se_med.explain.covariates import Covariate, associate, read_covariates, volumes

GATE = find_watched(make_predictor(make_plan(), {"encoder": "cse"}))[0]


def cases_with(means):
    """Cases whose gate has these means, (cases, channels)."""
    found = []
    for number, row in enumerate(means):
        zero = np.zeros_like(row)
        moments = Moments(1.0, row, zero, row, row, zero, zero)
        nothing = ClassMeans.empty(1, len(row))
        found.append(CaseGates(f"case_{number}", {GATE.name: GateCase(moments, nothing, nothing)}))
    return found


def numbers(values, name="age"):
    return Covariate(name, {f"case_{number}": value for number, value in enumerate(values)}, numeric=True)


def test_effects_and_p_are_those_of_scipy():
    generator = np.random.default_rng(0)
    means, age = generator.normal(size=(12, 3)), generator.normal(size=12)
    site = ["a", "b", "c"] * 4
    categories = Covariate("site", {f"case_{number}": one for number, one in enumerate(site)}, numeric=False)
    found = associate([GATE], cases_with(means), [numbers(age), categories])
    for one in found:
        values = means.mean(1) if one.channel is None else means[:, one.channel]
        if one.covariate == "age":
            wanted = stats.spearmanr(values, age)
            assert (one.effect, one.p) == pytest.approx((wanted.statistic, wanted.pvalue))
        else:
            h, p = stats.kruskal(*(values[[other == label for other in site]] for label in "abc"))
            assert (one.effect, one.p) == pytest.approx((h / 11, p))
    assert len(found) == 8
    for level in ("gate", "channel"):
        mine = [one for one in found if one.level == level]
        adjusted = stats.false_discovery_control([one.p for one in mine])
        assert [one.q for one in mine] == pytest.approx(list(adjusted))


def test_a_planted_association_comes_first_and_noise_is_corrected():
    generator = np.random.default_rng(1)
    age = generator.normal(size=30)
    means = np.column_stack([age + 0.2 * generator.normal(size=30), *(0.01 * generator.normal(size=(60, 30)))])
    noise = [numbers(generator.normal(size=30), f"noise {number}") for number in range(10)]
    found = associate([GATE], cases_with(means), [numbers(age), *noise])
    channels = [one for one in found if one.level == "channel"]
    assert (channels[0].covariate, channels[0].channel) == ("age", 0)
    assert channels[0].q < 1e-6
    assert sum(one.q <= 0.05 for one in channels) <= 3
    assert sum(one.p <= 0.05 for one in channels) > 10


def test_what_cannot_be_tested_is_left_out():
    means = np.random.default_rng(0).normal(size=(12, 2))
    still = Covariate("still", dict.fromkeys((f"case_{number}" for number in range(12)), 1.0), numeric=True)
    few = numbers(list(range(9)), "few")
    alone = Covariate("alone", {f"case_{number}": str(number) for number in range(12)}, numeric=False)
    assert associate([GATE], cases_with(means), [still, few, alone]) == []
    assert associate([GATE], cases_with(np.full((12, 2), 0.5)), [numbers(list(range(12)))]) == []
    assert len(associate([GATE], cases_with(means), [numbers(list(range(12)))])) == 3


def test_volumes_are_covariates():
    cases = [CaseGates("a", {}, {"liver": 1500.0}, {"liver": 0.9}), CaseGates("b", {}, {"liver": 1400.0}, {"liver": np.nan})]
    found = {one.name: dict(one.values) for one in volumes(cases)}
    assert found == {"volume of liver": {"a": 1500.0, "b": 1400.0}, "Dice of liver": {"a": 0.9}}


def test_columns_are_numbers_or_categories(tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text("case;image;age;site;dose\na;a.nii.gz;61,5;x;1\nb;b.nii.gz;;y;\nc;c.nii.gz;70;x;n/a\n")
    found = {one.name: one for one in read_covariates(table)}
    assert list(found) == ["age", "site", "dose"]
    assert (found["age"].numeric, dict(found["age"].values)) == (True, {"a": 61.5, "c": 70.0})
    assert not found["site"].numeric
    assert not found["dose"].numeric


@pytest.mark.parametrize(
    ("text", "said"),
    [("name,age\na,1\n", "column case"), ("case\na\n", "column case"), ("case,age\na,1\na,2\n", "again"), ("", "column case")],
)
def test_tables_that_cannot_be_used_are_refused(text, said, tmp_path):
    table = tmp_path / "cases.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_covariates(table)
