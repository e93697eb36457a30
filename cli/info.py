"""`se-med info`: what the network of a configuration costs."""

from __future__ import annotations

import json as json_format
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from se_med.cli.console import make_console

if TYPE_CHECKING:
    from rich.table import Table

    from se_med.networks.cost import Cost, NetworkCost


def info(
    config: Path,
    *overrides: Annotated[str, Parameter(allow_leading_hyphen=False)],
    patch: str | None = None,
    channels: int | None = None,
    classes: int | None = None,
    json: bool = False,
) -> int:
    """Count a network stage by stage: parameters, multiplications, memory kept by training, and how much its attention adds.

    What the configuration leaves open is taken from the plan beside it (the config.yaml of a run), or planned from the data as
    training does. With --patch, --channels and --classes no data is needed.

    Args:
        config: configuration file (YAML).
        overrides: settings that replace those of the file, as key=value, e.g. attention=cse network.features=[16,32,64].
        patch: size of the patch in voxels, e.g. 64,64,64.
        channels: channels of the image.
        classes: classes, background included.
        json: print one JSON document instead of a table.
    """
    from se_med.config.load import load_config

    configuration = load_config(config, overrides)
    from se_med.cli.loading import loading
    from se_med.config.attention import AttentionConfig
    from se_med.errors import UsageError

    with loading():
        from se_med.cli.progress import progress_bar
        from se_med.data.outline import Sizes, outline
        from se_med.networks.build import build_network
        from se_med.networks.cost import measure_network

    found = outline(configuration, config.parent, Sizes(_numbers(patch), channels, classes), progress_bar)
    configuration = found.config
    size, batch = configuration.training.patch or (), configuration.training.batch_size or 1
    costs = []
    for attention in (configuration.attention, AttentionConfig()):
        network = build_network(configuration.network, attention, found.channels, found.classes, configuration.seed)
        try:
            costs.append(measure_network(network, found.channels, size, batch))
        except ValueError as error:
            raise UsageError(f"{config}: {error}") from None
    cost, plain = costs
    if json:
        document = {
            "patch": list(size),
            "batch_size": batch,
            "channels": found.channels,
            "classes": found.classes,
            "unit": configuration.network.unit,
            **cost.to_dict(),
            "plain": plain.to_dict()["total"],
            "percent_above_plain": cost.total.percent_above(plain.total),
        }
        sys.stdout.write(json_format.dumps(document, indent=2) + "\n")
        return 0

    console = make_console()
    console.print(_table(cost, plain))
    what = f"patch {'x'.join(map(str, size))}, {_count(found.channels, 'channel')}, {_count(found.classes, 'class', 'es')}"
    console.print(
        f"{what}; units: {configuration.network.unit}. MACs: for one patch. MB: what the forward pass keeps for the backward "
        f"pass, in float32, for a batch of {batch}. Plain: the same network without attention."
    )
    return 0


def _table(cost: NetworkCost, plain: NetworkCost) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from se_med.networks.cost import Cost

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("stage, gates")
    table.add_column("shape", no_wrap=True)
    for name in ("parameters", "MACs", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in cost.stages:
        units = f", {_count(stage.units, 'unit')}" if stage.units else ""
        table.add_row(f"{stage.name}{units}", "x".join(map(str, stage.shape)), *_cells(stage.cost))
        alike = Counter((re.split(r"[_.]", gate.name)[0], gate.block) for gate in stage.gates)
        for (site, block), number in alike.items():
            cells = _cells(sum((gate.cost for gate in stage.gates if gate.name.startswith(site) and gate.block == block), Cost()))
            times = f"{number} " if number > 1 else ""
            table.add_row(Text(f"  {site}: {times}{block}", style="dim"), "", *(Text(cell, style="dim") for cell in cells))
    table.add_section()
    table.add_row("total", "", *_cells(cost.total))
    table.add_row("of it gates", "", *_cells(cost.gates))
    table.add_row("plain", "", *_cells(plain.total))
    above = cost.total.percent_above(plain.total)
    table.add_row("above plain", "", *(f"{value:+.2f} %" for value in above.values()))
    return table


def _cells(cost: Cost) -> tuple[str, str, str]:
    return f"{cost.parameters:,}", _short(cost.macs), f"{cost.activation_bytes / 1e6:,.2f}"


def _short(macs: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if macs >= size:
            return f"{macs / size:.2f} {unit}"
    return str(macs)


def _count(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{'' if number == 1 else plural}"


def _numbers(text: str | None) -> tuple[int, ...] | None:
    from se_med.errors import UsageError

    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--patch {text}: must be whole numbers with commas between them, such as 64,64,64")
    return numbers
