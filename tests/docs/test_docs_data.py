"""The page about data says what the code does."""

import re
from pathlib import Path

from se_med.config.load import parse_config
from se_med.data.layouts import LAYOUTS
from se_med.io.images import VOLUME_SUFFIXES

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_every_layout_is_listed_in_the_order_of_detection():
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(LAYOUTS)


def test_every_format_is_listed():
    assert all(f"`{suffix}`" in PAGE for suffix in VOLUME_SUFFIXES)


def test_samples_are_valid():
    samples = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert samples
    for sample in samples:
        assert parse_config(sample, "sample").data.root is not None
