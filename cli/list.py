"""`se-med list`: what can be chosen."""

from __future__ import annotations

import json as json_format
import sys

from cyclopts import App

from se_med.cli.console import make_console

app = App(name="list", help_format="markdown", help="List what can be chosen in a configuration.")


@app.command
def blocks(pattern: str = "*", *, json: bool = False) -> int:
    """List the attention blocks: name, kind, ranks, formula, source, and what goes beyond the source.

    Args:
        pattern: names to list, with wildcards, e.g. "*se".
        json: print one JSON document instead of text.
    """
    from se_med.attention import attention_class, list_attention
    from se_med.errors import UsageError

    names = list_attention(pattern)
    if not names:
        raise UsageError(f"{pattern!r}: no attention block has such a name; known are {', '.join(list_attention())}")
    found = {name: attention_class(name) for name in names}
    if json:
        rows = [
            {
                "name": name,
                "kind": block.kind,
                "ranks": list(block.ranks),
                "formula": block.formula,
                "source": block.source,
                "extension": block.extension,
            }
            for name, block in found.items()
        ]
        sys.stdout.write(json_format.dumps(rows, indent=2) + "\n")
        return 0
    from rich.padding import Padding
    from rich.text import Text

    console = make_console()
    for name, block in found.items():
        ranks = ", ".join(f"{rank}D" for rank in block.ranks)
        console.print(Text.assemble((name, "bold"), f"  {block.kind}, {ranks}"))
        lines = [block.formula, block.source, *([f"ours: {block.extension}"] if block.extension else [])]
        for line, style in zip(lines, ("", "dim", "dim"), strict=False):
            console.print(Padding(Text(line, style), (0, 0, 0, 4), expand=False))
    return 0
