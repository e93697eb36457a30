"""What a study says, as text for the terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from se_med.study.statistics import StudyStatistics
from se_med.study.verdict import Verdict, p_number

STYLES = {"better": "bold green", "worse": "bold red", "equivalent": "bold blue", "inconclusive": "bold yellow"}


def verdict_text(statistics: StudyStatistics) -> RenderableType:
    """Return noise floor, verdicts in a table and in plain words, and what to know about them, for a rich console."""
    lines: list[RenderableType] = [Text(statistics.noise.sentence, style="dim"), _table(statistics)]
    lines += [Text(verdict.sentence) for verdict in statistics.verdicts]
    for arm, reasons in statistics.unmatched_reasons.items():
        if statistics.matched[arm] is False:
            lines.append(Text(f"{arm} is not matched with {statistics.reference}: {'; '.join(reasons)}", style="yellow"))
    lines += [Text(f"excluded: {run}", style="red") for run in statistics.failed]
    return Group(*lines)


def _table(statistics: StudyStatistics) -> Table:
    metric = statistics.metric
    title = f"mean {metric.title}, difference from {statistics.reference} (margin {metric.text(statistics.margin)})"
    table = Table("arm", "verdict", title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("difference", "95 % interval", "p (Holm)", "run\npairs", "matched"):
        table.add_column(name, justify="right")
    for verdict in statistics.verdicts:
        table.add_row(
            verdict.arm,
            Text(verdict.word, style=STYLES[verdict.word]),
            metric.text(verdict.estimate, signed=True),
            _interval(verdict, statistics),
            "-" if verdict.p_different is None else p_number(verdict.p_different),
            str(verdict.run_pairs),
            {True: "yes", False: "no", None: "-"}[statistics.matched[verdict.arm]],
        )
    return table


def _interval(verdict: Verdict, statistics: StudyStatistics) -> str:
    if verdict.low is None or verdict.high is None:
        return "-"
    return f"{statistics.metric.text(verdict.low, signed=True)} to {statistics.metric.text(verdict.high, signed=True)}"
