"""The pages of the blocks are up to date, and the costs that they state are true."""

import re

import pytest
import sympy
import yaml

from se_med.attention import attention_class, list_attention
from se_med.attention.eca import automatic_kernel
from se_med.config.load import parse_config


def test_pages_are_what_the_generator_makes(make_blocks, pages):
    on_file = {path.name: path.read_text(encoding="utf-8") for path in make_blocks.FOLDER.glob("*.md")}
    stale = sorted(name for name in pages.keys() | on_file.keys() if pages.get(name) != on_file.get(name))
    assert not stale, f"{stale} in docs/blocks are not up to date; run `make docs`"


def test_each_block_has_facts_and_each_fact_a_block(make_blocks):
    facts = yaml.safe_load(make_blocks.FACTS.read_text(encoding="utf-8"))
    assert sorted(facts) == list_attention()
    assert all(facts[name]["cost"] for name in facts)


def test_page_says_formula_source_options_and_defaults(pages):
    page = pages["cse.md"]
    block = attention_class("cse")
    assert f"\n    {block.formula}\n" in page
    assert block.source in page
    assert "| `gate_function` | `sigmoid` | `sigmoid`, `hard_sigmoid`" in page
    assert "| `hidden` | `null` |" in page
    assert "the output is x, bit for bit" in " ".join(page.split()).lower()


def test_samples_run(pages):
    scope = {}
    for sample in re.findall(r"```python\n(.*?)```", pages["README.md"], re.DOTALL):
        exec(sample, scope)  # noqa: S102 (our own page, made a moment ago)
    assert scope["block"].channels == 32
    assert scope["network"].downsamples[0].attention.channels == 64
    for sample in re.findall(r"```yaml\n(.*?)```", pages["README.md"], re.DOTALL):
        assert parse_config(sample, "sample").attention.decoder is not None


@pytest.mark.parametrize("name", list_attention())
def test_stated_costs_equal_the_counts(make_blocks, name):
    facts = yaml.safe_load(make_blocks.FACTS.read_text(encoding="utf-8"))[name]
    letters = {letter: sympy.Symbol(letter) for letter in make_blocks.LETTERS}
    letters["log2"] = lambda value: sympy.log(value, 2)
    for stated in facts["cost"]:
        options = stated.get("options", {})
        for rank in attention_class(name).ranks:
            for channels in (8, 24, 64):
                spatial = make_blocks.MAPS[rank]
                kernel = automatic_kernel(channels) if name == "eca" else {2: 7, 3: 3}[rank]
                signal = {"coarse": 2, "fine": 1}.get(attention_class(name).signal, 0) * channels
                values = {
                    "C": channels,
                    "D": rank,
                    "N": sympy.prod(spatial),
                    "L": sum(spatial),
                    "h": max(8, channels // 4),
                    "k": kernel,
                    "e": options.get("extent", 0),
                    "F": channels // 2,
                    "G": signal,
                }
                cost = make_blocks.count_block(name, channels, rank, **options)
                known = {letters[letter]: value for letter, value in values.items()}
                for key, count in (("parameters", cost.parameters), ("macs", cost.macs)):
                    formula = sympy.sympify(stated[key], locals=letters)
                    assert float(formula.subs(known)) == pytest.approx(count, rel=1e-12), (key, rank, channels)
