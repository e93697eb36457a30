"""Names are printed as they are, whatever they look like."""

import pytest

from se_med.cli.console import make_console, printable


@pytest.mark.parametrize("text", ["[bold]x[/]", "a[/nothing]b", ":smile:", "plain", "größe\tx\n"])
def test_text_is_no_markup(capsys, text):
    make_console().print(text, soft_wrap=True)
    assert capsys.readouterr().out == f"{text}\n".replace("\t", " " * (8 - text.find("\t") % 8))


def test_what_a_terminal_would_obey_is_written_out(capsys):
    assert printable("a\x1b[31m\x07\x9b\udcff\u202e") == "a\\x1b[31m\\x07\\x9b\\udcff\\u202e"
    make_console().print("x\x1b[2Jy", soft_wrap=True)
    assert capsys.readouterr().out == "x\\x1b[2Jy\n"
