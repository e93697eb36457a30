"""Writes the pages in docs/blocks: one per attention block, from its class, its docstring, a count of it, and blocks.yaml.

Run `make docs` after a change; a test compares the pages with what this file makes.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from se_med.attention import Gate, attention_class, create_attention, list_attention
from se_med.io.atomic import write_text
from se_med.networks.cost import Cost, measure

FOLDER = Path(__file__).parent / "blocks"
FACTS = Path(__file__).with_name("blocks.yaml")

FILLED_IN = ("channels", "spatial_dims", "signal_channels", "stride")
"""What the network tells a block about its place; no options of a configuration."""
WIDTHS = (16, 32, 128, 320)
MAPS = {2: (128, 128), 3: (32, 32, 32)}
BATCH = 2
LETTERS = {
    "C": "channels",
    "D": "rank of the map",
    "N": "voxels of the map",
    "L": "sum of the map's sizes along its axes",
    "h": "hidden width, max(min_hidden, C // reduction)",
    "k": "kernel size",
    "e": "extent",
    "F": "hidden channels",
    "G": "channels of the signal",
}
KINDS = {
    "channel": "weighs channels",
    "spatial": "weighs voxels",
    "both": "weighs channels and voxels",
    "normalisation": "takes the place of the norms of a stage",
    "skip": "weighs the skip connection by the features of the decoder; site `skip` only",
    "control": "to tell what attention is worth from what its parameters are worth",
}
INDEX = """\
# Attention blocks

{rows}

Each block is one class for images and volumes and equals an independent formula in float64 to 1e-10. Which block stands where in
the U-Net is a part of the configuration (`se-med schema` tells all options):

```yaml
attention: scse                       # every encoder and decoder stage
```

```yaml
attention:                            # or site by site
  encoder: {{block: cse, reduction: 8, stages: [1, 2]}}
  skip: attention_gate
  decoder: sse
```

`se-med list blocks` prints this list, `se-med info CONFIG` what a network with them costs.

## In your own code

`se_med.attention` needs nothing but torch:

```python
from se_med.attention import create_attention

block = create_attention("scse", channels=32, spatial_dims=3, aggregation="add")
```

In a network of another library, blocks are put behind modules by the modules' names. No other weight is renamed, and with
`identity_start` a trained network gives the same output as before until training goes on:

```python
import torch
from monai.networks.nets import DynUNet
from se_med.attention import insert_attention

network = DynUNet(3, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2])
insert_attention(network, "downsamples.*", "cse", 3, probe=torch.zeros(1, 1, 16, 16, 16), identity_start=True)
```
"""


def main() -> None:
    """Write every page and remove those of blocks that are no more."""
    pages = make_pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        write_text(FOLDER / name, text)


def make_pages() -> dict[str, str]:
    """Return the text of every page by file name."""
    facts = yaml.safe_load(FACTS.read_text(encoding="utf-8"))
    pages = {f"{name}.md": make_page(name, facts.get(name, {})) for name in list_attention()}
    table = [("block", "kind", "formula"), ("---", "---", "---")]
    for name in list_attention():
        block = attention_class(name)
        table.append((f"[{name}]({name}.md)", block.kind, f"`{block.formula}`"))
    return pages | {"README.md": INDEX.format(rows=_rows(table))}


def make_page(name: str, facts: dict[str, Any]) -> str:
    """Return the page of one block; ``facts`` is its entry in blocks.yaml."""
    block = attention_class(name)
    sections = _sections(block)
    head, _, body = sections["text"].partition("\n\n")
    ranks = " and ".join(f"{rank}D" for rank in block.ranks)
    ours = f"\n\nBeyond the source: {block.extension}." if block.extension else ""
    parts = [
        f"# {name}",
        head,
        f"    {block.formula}",
        body,
        f"Kind: {block.kind}, {KINDS[block.kind]}. Defined in {ranks}.",
        "## Shapes",
        sections["Shape"],
        "## Options",
        _options(block),
        "## Cost",
        _cost(name, block, facts.get("cost", [])),
        "## Source",
        f"{block.source}.{ours}",
    ]
    if facts.get("others"):
        parts += ["## What others do differently", "\n".join(f"- {entry}" for entry in facts["others"])]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sections(block: type[Gate]) -> dict[str, str]:
    """Return the parts of a docstring by heading; what a block does not say itself is that of its base class."""
    sections: dict[str, str] = {}
    for cls in reversed(block.__mro__[: block.__mro__.index(Gate) + 1]):
        text = inspect.cleandoc(cls.__doc__ or "").replace("``", "`")
        parts = re.split(r"^(Args|Raises|Shape|Attributes):\n", text, flags=re.MULTILINE)
        found = {heading: inspect.cleandoc("\n" + content) for heading, content in zip(parts[1::2], parts[2::2], strict=True)}
        sections |= {"text": re.sub(r"\s*Arguments\s+as\s+for\s+\w+\.", "", parts[0].strip())} | found
    return sections


def _options(block: type[Gate]) -> str:
    common, own = dict(_arguments(Gate)), dict(_arguments(block))
    rows = [("option", "default", "meaning"), ("---", "---", "---")]
    for option, parameter in inspect.signature(block).parameters.items():
        if option in FILLED_IN:
            continue
        rows.append((f"`{option}`", f"`{_yaml(parameter.default)}`", (common if own[option] == "see Gate." else own)[option]))
    return _rows(rows) if len(rows) > 2 else "None."


def _arguments(block: type[Gate]) -> Iterator[tuple[str, str]]:
    """Yield the name and description of every argument in a docstring."""
    for entry in re.split(r"\n(?=\w+: )", _sections(block)["Args"]):
        name, _, meaning = entry.partition(": ")
        yield name, " ".join(meaning.split())


def _cost(name: str, block: type[Gate], costs: list[dict[str, Any]]) -> str:
    rows = [("options", "parameters", "MACs"), ("---", "---", "---")]
    for cost in costs:
        options = ", ".join(f"{key}: {_yaml(value)}" for key, value in cost.get("options", {}).items()) or "defaults"
        rows.append((options, _formula(cost["parameters"]), _formula(cost["macs"])))
    used = set(re.findall(r"\b[A-Za-z]\b", " ".join(f"{cost['parameters']} {cost['macs']}" for cost in costs)))
    letters = [f"{letter} {meaning}" for letter, meaning in LETTERS.items() if letter in used]
    sizes = " and ".join("x".join(map(str, MAPS[rank])) for rank in block.ranks)
    signal = {"coarse": " Here G = 2 C.", "fine": " Here G = C."}.get(block.signal, "")
    how = (
        f"With default options, counted in training on maps of {sizes}; MACs are those of one image, and what is kept for the "
        f"backward pass besides the input is given in maps of the input's size.{signal}"
    )
    parts = (_rows(rows) if costs else "", f"{'; '.join(letters)}." if letters else "", how, _counts(name, block))
    return "\n\n".join(part for part in parts if part)


def _counts(name: str, block: type[Gate]) -> str:
    headings = [f"{what} {rank}D" for rank in block.ranks for what in ("parameters", "MACs", "maps kept")]
    rows = [("C", *headings), ("---:",) * (1 + len(headings))]
    for channels in WIDTHS:
        cells = [str(channels)]
        for rank in block.ranks:
            cost = count_block(name, channels, rank)
            maps = cost.activation_bytes / (4 * BATCH * channels * math.prod(MAPS[rank]))
            cells += [f"{cost.parameters:,}", f"{cost.macs:,}", f"{maps:.2f}"]
        rows.append(tuple(cells))
    return _rows(rows)


def count_block(name: str, channels: int, rank: int, **options: Any) -> Cost:
    """Count a block on a map of MAPS; the signal of a skip block has twice the channels where it is coarse."""
    spatial, signal = MAPS[rank], attention_class(name).signal
    shapes = [(BATCH, channels, *spatial)]
    if signal:
        coarse = signal == "coarse"
        options["signal_channels"] = 2 * channels if coarse else channels
        shapes.append((BATCH, options["signal_channels"], *(size // 2 if coarse else size for size in spatial)))
    return measure(create_attention(name, channels, rank, **options), *shapes)


def _formula(text: str) -> str:
    """Write a formula as one reads it: C^2 h for C**2*h."""
    text = re.sub(r"\*\*\(([^()]*)\)|\*\*(\w+)", lambda match: f"^{match[1] or match[2]}", text)
    return text.replace("*", " ")


def _yaml(value: object) -> str:
    """Write a value as in a configuration."""
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool | None) else str(value)


def _rows(rows: list[tuple[str, ...]]) -> str:
    return "\n".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows)


if __name__ == "__main__":
    main()
