"""What the values of label files mean: structures of one or several values, regions that overlap, values that are background."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import Field, PositiveInt

Values = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
"""Several label values of one structure or region."""
MOST_REGIONS = 16
"""Every combination of regions gets a label value from a table, which has 2 to the power of their number entries."""
BACKGROUND = "background"


def as_values(entry: int | Sequence[int]) -> tuple[int, ...]:
    """Return the label values of a structure that is written as one value or as several."""
    return (entry,) if isinstance(entry, int) else tuple(entry)


def order_regions(regions: Mapping[str, int | Sequence[int]]) -> dict[str, int]:
    """Choose the label value that predictions write for each region, and the order of writing, in which later ones overwrite.

    Larger regions, in number of values, come before smaller ones, others in the order given. The value of a region is one that
    no later region has: of nested regions it is what remains of each outside of the next. Where several remain it is one of
    the fewest regions.

    Raises:
        ValueError: nothing remains of a region, so that no value stands for it alone.
    """
    values = {name: as_values(entry) for name, entry in regions.items()}
    names = sorted(values, key=lambda name: -len(values[name]))
    chosen = {}
    for position, name in enumerate(names):
        later = {value for other in names[position + 1 :] for value in values[other]}
        remaining = [value for value in values[name] if value not in later]
        if not remaining:
            others = ", ".join(other for other in names[position + 1 :] if set(values[other]) & set(values[name]))
            raise ValueError(
                f"{name} {list(values[name])} holds nothing beside {others}, so no label value stands for it alone; add a value "
                "that no file has, or name the value of each region in region_values"
            )
        chosen[name] = min(remaining, key=lambda value: sum(value in held for held in values.values()))
    return chosen


def refuse_labels(labels: Mapping[str, int | Sequence[int]]) -> None:
    """Refuse structures that are no partition of label values.

    Raises:
        ValueError: one line that begins with the key.
    """
    homes: dict[int, str] = {}
    single = all(isinstance(entry, int) for entry in labels.values())
    for name, entry in labels.items():
        for value in as_values(entry):
            if value not in homes:
                homes[value] = name
            elif homes[value] == name:
                raise ValueError(f"labels: {name} names {value} twice")
            elif single:
                raise ValueError("labels: two labels have the same value")
            else:
                both = f"{homes[value]} and {name} both have the value {value}"
                raise ValueError(f"labels: {both}; structures that overlap are regions (data.regions)")
    _refuse_background("labels", labels)


def refuse_regions(regions: Mapping[str, int | Sequence[int]], region_values: Mapping[str, int] | None) -> None:
    """Refuse regions that cannot be told apart, and values that cannot stand for them.

    Raises:
        ValueError: one line that begins with the key.
    """
    _refuse_background("regions", regions)
    if len(regions) > MOST_REGIONS:
        raise ValueError(f"regions: {len(regions)} regions; at most {MOST_REGIONS} can be told apart, leave some out")
    seen: dict[frozenset[int], str] = {}
    for name, entry in regions.items():
        values = frozenset(as_values(entry))
        if len(values) != len(as_values(entry)):
            raise ValueError(f"regions: {name} names a value twice")
        if values in seen:
            raise ValueError(f"regions: {seen[values]} and {name} are the same values; remove one of them")
        seen[values] = name
    if region_values is not None:
        _refuse_region_values(regions, region_values)
        return
    try:
        order_regions(regions)
    except ValueError as error:
        raise ValueError(f"regions: {error}") from None


def _refuse_region_values(regions: Mapping[str, int | Sequence[int]], region_values: Mapping[str, int]) -> None:
    odd = ", ".join(sorted(region_values.keys() ^ regions.keys()))
    if odd:
        raise ValueError(f"region_values: must name every region and nothing else; see {odd}")
    for name, value in region_values.items():
        if value not in as_values(regions[name]):
            raise ValueError(f"region_values: {value} is no value of {name}, which has {list(as_values(regions[name]))}")
    if len(set(region_values.values())) != len(region_values):
        raise ValueError("region_values: two regions have the same value")


def refuse_values(
    structures: Mapping[str, int | Sequence[int]], background_values: Sequence[int], ignore_label: int | None
) -> None:
    """Refuse a value that is of a structure, or of a region, and also background or ignored.

    Raises:
        ValueError: one line that begins with the key.
    """
    homes = {value: name for name, entry in structures.items() for value in as_values(entry)}
    if ignore_label in homes:
        raise ValueError(f"ignore_label: {ignore_label} is the value of structure {homes[ignore_label]}; remove one of them")
    if ignore_label in background_values:
        raise ValueError(f"ignore_label: {ignore_label} is in background_values too; remove one of them")
    for value in background_values:
        if value in homes:
            raise ValueError(f"background_values: {value} is the value of structure {homes[value]}; remove one of them")


def _refuse_background(key: str, names: Mapping[str, object]) -> None:
    if BACKGROUND in names:
        raise ValueError(
            f"{key}: {BACKGROUND} is no structure; 0 is always background, and data.background_values lists further values"
        )
