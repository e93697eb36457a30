"""Text files from elsewhere: regular ones of a sane size, or an error at once."""

import os

import pytest

from se_med.io.textfile import read_text


def test_text_comes_back(tmp_path):
    (tmp_path / "a").write_bytes("\ufeffgrün\n".encode())
    assert read_text(tmp_path / "a", encoding="utf-8-sig") == "grün\n"


def test_what_is_no_file_of_text_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(2000))
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for name, says in (("pipe", "is a pipe or device"), ("", "is a folder"), ("none", "No such file"), ("large", "larger than")):
        with pytest.raises(OSError, match=says):
            read_text(tmp_path / name, most=1000)
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "bytes")
