"""What the numbers say, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from se_med.explain.analysis import Analysis, Explanation
from se_med.explain.gates import GateSite
from se_med.explain.statistics import GateStatistics

ORDER = ("depends", "nearly constant", "constant", "dead", "unknown", "no gate")
FIRST = 3
"""How many gates a sentence names."""


def verdicts(explanation: Explanation) -> list[tuple[str, str]]:
    """Return the findings as sentences, each with the mark that it gets: good, warning, error or neutral."""
    analysis = explanation.analysis
    said = [_dependence(analysis.whole), *_parts(analysis.statistics), *_variance(analysis.finest), *_classes(analysis)]
    said += [*_saturation(analysis.statistics), *_covariates(analysis)]
    if explanation.ranking is not None:
        said.append(("neutral", explanation.ranking.sentence))
    if explanation.context is not None:
        said.append(("neutral", explanation.context.sentence))
    if explanation.pruned is not None:
        said.append(("neutral", explanation.pruned.sentence))
    return said


def headline(statistics: Sequence[GateStatistics]) -> str:
    """Return how many gates depend on the input."""
    counted = [one for one in statistics if one.verdict not in ("unknown", "no gate")]
    depending = sum(one.verdict == "depends" for one in counted)
    return f"{depending} of {len(counted)} gates depend on the input by more than 1 % of their range"


def _dependence(statistics: Sequence[GateStatistics]) -> tuple[str, str]:
    found = {verdict: [one for one in statistics if one.verdict == verdict] for verdict in ORDER}
    parts = [f"{headline(statistics)}."]
    words = {
        "nearly constant": "Nearly constant, which is almost a learned scale per channel",
        "constant": "The same for every input",
        "dead": "Dead, letting nothing through",
        "unknown": "Not to be judged from one case in one window",
        "no gate": "Without a factor, and not watched",
    }
    for verdict, words_ in words.items():
        if found[verdict]:
            parts.append(f"{words_}: {_named(one.gate for one in found[verdict])}.")
    good = len(found["depends"]) == len(statistics)
    return ("good" if good else "error" if not found["depends"] else "warning"), " ".join(parts)


def _parts(statistics: Sequence[GateStatistics]) -> list[tuple[str, str]]:
    said = []
    for part in dict.fromkeys(one.gate.part for one in statistics if one.gate.part):
        mine = [one for one in statistics if one.gate.part == part]
        depending = [one for one in mine if one.verdict == "depends"]
        rest = [one for one in mine if one.verdict in ("nearly constant", "constant", "dead")]
        text = f"Of their {part} parts, looked at alone, {len(depending)} of {len(mine)} depend on the input"
        if rest:
            spans = sorted({f"{one.over_inputs:.2g}" for one in rest}, key=float)
            spread = " to ".join(dict.fromkeys((spans[0], spans[-1])))
            text += f"; what comes from the input in the other {len(rest)} has a standard deviation of {spread}"
        said.append(("good" if len(depending) == len(mine) else "warning", f"{text}."))
    return said


def _variance(statistics: Sequence[GateStatistics]) -> list[tuple[str, str]]:
    said = []
    for uniform, what, unit in ((True, "gates of whole channels", "windows"), (False, "gates of voxels", "voxels")):
        known = [one for one in statistics if one.gate.uniform == uniform and np.isfinite(one.share_of_cases)]
        if not known:
            continue
        channels, cases, positions = (
            100 * float(np.mean([getattr(one, name) for one in known]))
            for name in ("share_of_channels", "share_of_cases", "share_of_positions")
        )
        most = max(known, key=lambda one: one.share_of_cases)
        said.append(
            (
                "neutral",
                f"Of the variance of {what}, on average {channels:.1f} % is between channels and the same for every input, "
                f"{cases:.2f} % is explained by the case, and {positions:.2f} % is between the {unit} of a case. The case "
                f"explains most in {most.gate.label}: {most.share_of_cases:.2%}.",
            )
        )
    return said


def _classes(analysis: Analysis) -> list[tuple[str, str]]:
    known = [one for one in analysis.best_profiles if np.isfinite(one.separation)]
    if not known:
        return [("neutral", "Whether gates tell classes apart cannot be said: too few cases or classes.")]
    separating = [one for one in known if one.separating]
    clearest = max(known, key=lambda one: (one.separating, one.distance))
    text = f"{len(separating)} of {len(known)} gates and parts of gates tell classes apart"
    if separating:
        text += (
            f"; most clearly {clearest.gate.label}, where classes explain {clearest.separation:.0%} of the variance and lie "
            f"{clearest.distance:.1%} of the range apart"
        )
    if any(one.kind == "squeezed" for one in known):
        text += ". Of gates that squeeze, this is what they would be if they saw the region of a class alone"
    return [("neutral", f"{text}.")]


def _saturation(statistics: Sequence[GateStatistics]) -> list[tuple[str, str]]:
    said = []
    partly = [one for one in statistics if 0 < one.dead_channels < one.channels]
    if partly:
        named = ", ".join(f"{one.gate.label} ({one.dead_channels} of {one.channels})" for one in partly[:FIRST])
        said.append(("warning", f"Channels that are nowhere let through: {named}{_more(len(partly))}."))
    saturated = [one for one in statistics if one.verdict != "dead" and np.nan_to_num(one.below + one.above) > 0.5]
    if saturated:
        named = ", ".join(f"{one.gate.label} ({one.below:.0%} closed, {one.above:.0%} open)" for one in saturated[:FIRST])
        said.append(("warning", f"More than half of their factors are saturated: {named}{_more(len(saturated))}."))
    return said


def _covariates(analysis: Analysis) -> list[tuple[str, str]]:
    if not analysis.associations:
        return []
    gates = {gate.name: gate for gate in analysis.gates}
    found = [one for one in analysis.associations if one.level == "gate" and one.q <= 0.05]
    tests = sum(one.level == "gate" for one in analysis.associations)
    if not found:
        return [("neutral", f"No gate's mean goes together with a covariate ({tests} tests, q > 0.05). This is exploration.")]
    named = ", ".join(f"{gates[one.gate].label} with {one.covariate} ({one.effect:+.2f})" for one in found[:FIRST])
    return [
        (
            "neutral",
            f"{len(found)} of {tests} tests find a gate's mean to go together with a covariate (q up to 0.05): "
            f"{named}{_more(len(found))}. This is exploration: it shows no cause.",
        )
    ]


def _named(gates: Iterable[GateSite]) -> str:
    names = [gate.label for gate in gates]
    return ", ".join(names[:FIRST]) + _more(len(names))


def _more(count: int) -> str:
    return f" and {count - FIRST} more" if count > FIRST else ""
