"""`se-med data`: data sets that can be had with one command."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from se_med.cli.console import make_console

app = App(name="data", help_format="markdown", help="Get data sets: download a public one, or make the sample.")


@app.command(name="list")
def list_data() -> int:
    """List the data sets that `se-med data get` knows."""
    from rich.table import Table

    from se_med.data.cards import list_cards, read_card

    table = Table("name", "cases", "modality", "structures", "licence")
    for name in list_cards():
        card = read_card(name)
        table.add_row(name, str(card.cases), card.modality, ", ".join(card.labels), card.licence)
    make_console().print(table)
    return 0


@app.command
def get(name: str, folder: Path = Path("data")) -> int:
    """Download a public data set, verify its checksum and unpack it.

    Args:
        name: name of the data set (`se-med data list`).
        folder: folder in which the data set's own folder is made.
    """
    from se_med.cli.progress import progress_bar
    from se_med.data.cards import read_card
    from se_med.data.download import get_dataset

    card = read_card(name)
    with progress_bar(f"download {name}", None) as advance:
        path = get_dataset(card, folder, lambda done, total: advance(done, _megabytes(done, total)))
    console = make_console()
    console.print(f"{path}: {card.cases} cases, licence {card.licence}; where you use them, please cite", soft_wrap=True)
    for citation in card.citations:
        console.print(f"  {citation}", soft_wrap=True)
    return 0


@app.command
def demo(folder: Path, *, subjects: int = 12, seed: int = 0, spacing: float = 3.0) -> int:
    """Make the sample data set: subjects deformed from one MRI template. They show that things work and prove nothing else.

    Args:
        folder: folder to make.
        subjects: number of subjects; a quarter of them is held out.
        seed: seed of the deformations.
        spacing: voxel spacing in mm.
    """
    from se_med.data.demo import make_demo

    path = make_demo(folder, subjects, seed, spacing)
    make_console().print(
        f"{path}: {subjects} subjects derived from the MNI152 template; no evidence about any method", soft_wrap=True
    )
    return 0


def _megabytes(done: int, total: int | None) -> str:
    return f"{done / 1e6:.0f} MB" if total is None else f"{done / 1e6:.0f} of {total / 1e6:.0f} MB"
