import hashlib
import importlib.util
import io
import json
import os
import shutil
import stat
import tarfile
import threading
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from se_med.data import download
from se_med.data.cards import list_cards, parse_card, read_card
from se_med.data.download import get_dataset
from se_med.errors import ConfigError, RunError, UsageError
from se_med.io.nifti import read_geometry

FILES = {"Task99/dataset.json": b"{}", "Task99/imagesTr/a.nii.gz": b"image" * 100, "Task99/labelsTr/a.nii.gz": b"label"}
CARD = """
name: tiny
title: A tiny data set
description: Made for a test.
task: None
homepage: https://example.org/tiny
licence: CC0-1.0
licence_url: https://creativecommons.org/publicdomain/zero/1.0/
provider: A test
citations: [Nobody]
archive: {{urls: [{urls}], checksum: '{checksum}', folder: Task99, unpacked_limit: {limit}}}
layout: msd
modality: mr
channels: [MRI]
labels: {{a: 1, b: 2}}
cases: 1
spacing: [1, 1, 2.5]
"""


def tar_of(files=FILES, mode="w", extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in extra:
            tar.addfile(info)
    return buffer.getvalue()


def zip_of(files=FILES, modes=None):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0o644 | stat.S_IFREG) << 16
            archive.writestr(info, content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def special(name, kind, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


class Server:
    """A local web server whose answers a test sets: path -> list of (status, headers, body), the last one repeated."""

    def __init__(self):
        self.answers = {}
        self.requests = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.requests.append(self.path)
                answers = outer.answers.get(self.path, [(404, {}, b"")])
                status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    if value is not None:
                        self.send_header(key, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *values):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def serve(self, body, path="/tiny.tar", status=200, **headers):
        self.answers.setdefault(path, []).append((status, headers, body))
        return self.url + path


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(download, "_PAUSE_SECONDS", 0.0)
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


def card_for(body, *urls, limit=100_000, method="md5", checksum=None):
    checksum = checksum or f"{method}:{hashlib.new(method, body).hexdigest()}"
    return parse_card(CARD.format(urls=", ".join(urls), checksum=checksum, limit=limit), "tiny.yaml")


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("body", "method"),
    [(tar_of(), "md5"), (tar_of(mode="w:gz"), "sha256"), (zip_of(), "md5")],
    ids=["tar", "tar.gz", "zip"],
)
def test_a_data_set_is_fetched_once(server, tmp_path, body, method):
    card = card_for(body, server.serve(body), method=method)
    seen = []
    found = get_dataset(card, tmp_path / "new" / "folder", progress=lambda done, total: seen.append((done, total)))
    assert found == tmp_path / "new" / "folder" / "tiny"
    files = tree(found)
    receipt = json.loads(files.pop(".card.json"))
    assert files == {name.removeprefix("Task99/"): content for name, content in FILES.items()}
    assert receipt == {"name": "tiny", "checksum": card.archive.checksum, "files": 3, "bytes": 507}
    assert seen[-1] == (len(body), len(body))
    assert get_dataset(card, tmp_path / "new" / "folder") == found
    assert len(server.requests) == 1
    assert [path.name for path in found.parent.iterdir()] == ["tiny"]  # no temporary is left


def test_what_macos_adds_is_left_out(server, tmp_path):
    junk = {"Task99/._dataset.json": b"x", "Task99/imagesTr/.DS_Store": b"x", "__MACOSX/a": b"x", "._Task99": b"x"}
    body = tar_of({**FILES, **junk})
    files = tree(get_dataset(card_for(body, server.serve(body)), tmp_path))
    assert len(files) == len(FILES) + 1


def test_a_copy_that_lost_a_file_is_named_and_kept(server, tmp_path):
    body = tar_of()
    card = card_for(body, server.serve(body))
    found = get_dataset(card, tmp_path)
    (found / "labelsTr" / "a.nii.gz").unlink()
    with pytest.raises(UsageError, match=r"tiny: is no complete copy: 2 files of 502 bytes, expected 3 of 507; remove it"):
        get_dataset(card, tmp_path)
    assert (found / "imagesTr" / "a.nii.gz").exists()


def test_a_folder_of_the_user_is_not_touched(server, tmp_path):
    body = tar_of()
    card = card_for(body, server.serve(body))
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="exists and was not made by a download"):
        get_dataset(card, tmp_path)
    assert tree(tmp_path) == {"tiny/mine.txt": b"mine"}
    with pytest.raises(UsageError, match=r"mine\.txt: cannot be used as a folder"):
        get_dataset(card, tmp_path / "tiny" / "mine.txt")
    assert server.requests == []


def test_a_newer_archive_is_told_from_an_older_copy(server, tmp_path):
    body = tar_of()
    get_dataset(card_for(body, server.serve(body)), tmp_path)
    with pytest.raises(UsageError, match="and of another archive"):
        get_dataset(card_for(b"new", server.url + "/tiny.tar"), tmp_path)


@pytest.mark.parametrize("method", ["md5", "sha256"])
def test_a_wrong_checksum_stops_before_anything_is_unpacked(server, tmp_path, method, monkeypatch):
    monkeypatch.setattr(download, "unpack", lambda *args: pytest.fail("unpacked an archive that was not verified"))
    card = card_for(tar_of(), server.serve(tar_of() + b"tampered"), method=method)
    with pytest.raises(RunError, match=rf"/tiny\.tar: wrong checksum {method}:[0-9a-f]+, expected {method}:"):
        get_dataset(card, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert len(server.requests) == 1


def test_a_missing_file_is_not_asked_for_again(server, tmp_path):
    card = card_for(b"", server.url + "/none.tar")
    with pytest.raises(RunError, match=r"/none\.tar: the server answers 404 Not Found; check the network .*example\.org/tiny"):
        get_dataset(card, tmp_path)
    assert server.requests == ["/none.tar"]


def test_the_next_source_is_tried(server, tmp_path):
    body = tar_of()
    card = card_for(body, server.url + "/none.tar", server.serve(b"other", "/wrong.tar"), server.serve(body))
    assert get_dataset(card, tmp_path).is_dir()
    assert server.requests == ["/none.tar", "/wrong.tar", "/tiny.tar"]


def test_a_passing_fault_is_tried_again_from_the_first_byte(server, tmp_path):
    body = tar_of()
    server.serve(b"", status=503)
    server.serve(body[:100], **{"Content-Length": str(len(body))})
    card = card_for(body, server.serve(body))
    assert get_dataset(card, tmp_path).is_dir()
    assert server.requests == ["/tiny.tar"] * 3


def test_a_connection_that_always_breaks_is_given_up(server, tmp_path):
    body = tar_of()
    card = card_for(body, server.serve(body[:100], **{"Content-Length": str(len(body))}))
    with pytest.raises(RunError, match=rf"the connection (ended after 100 of {len(body)} bytes|broke)"):
        get_dataset(card, tmp_path)
    assert len(server.requests) == 3
    assert list(tmp_path.iterdir()) == []


def test_no_network(server, tmp_path):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(RunError, match=r"cannot be reached \(.*refused\)") as caught:
        get_dataset(card_for(b"", server.url + "/tiny.tar"), tmp_path)
    assert caught.value.exit_code == 1
    assert "\n" not in caught.value.message


@pytest.mark.parametrize("elsewhere", ["ftp://127.0.0.1/tiny.tar", "file:///etc/passwd"])
def test_a_redirect_leads_to_the_web_only(server, tmp_path, elsewhere):
    card = card_for(b"", server.serve(b"", status=302, Location=elsewhere))
    with pytest.raises(RunError, match=r"302|unknown url type|redirect"):
        get_dataset(card, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_redirect_within_the_web_is_followed(server, tmp_path):
    body = tar_of()
    server.serve(body, "/moved.tar")
    assert get_dataset(card_for(body, server.serve(b"", status=302, Location="/moved.tar")), tmp_path).is_dir()


@pytest.mark.parametrize("length", [None, "200000"])
def test_a_download_beyond_the_limit_is_cut(server, tmp_path, length):
    body = b"\0" * 200_000
    card = card_for(body, server.serve(body, **{"Content-Length": length}), limit=50_000)
    with pytest.raises(RunError, match="limit of 50000"):
        get_dataset(card, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_seen_before_the_download(server, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(100, 90, 10))
    body = tar_of()
    with pytest.raises(RunError, match=rf"no space: {2 * len(body)} bytes needed, 10 free"):
        get_dataset(card_for(body, server.serve(body)), tmp_path)
    assert list(tmp_path.iterdir()) == []


HOSTILE = {
    "parent": (tar_of({**FILES, "Task99/../../evil": b"x"}), "'Task99/../../evil' leads out of the folder"),
    "absolute": (tar_of({**FILES, "/srv/evil": b"x"}), "'/srv/evil' leads out of the folder"),
    "backslash": (tar_of({**FILES, "Task99\\..\\evil": b"x"}), "leads out of the folder"),
    "drive": (tar_of({**FILES, "C:evil": b"x"}), "'C:evil' leads out of the folder"),
    "symlink": (tar_of(extra=[special("Task99/s", tarfile.SYMTYPE, "/etc")]), "'Task99/s' is a link"),
    "hard link": (tar_of(extra=[special("Task99/h", tarfile.LNKTYPE, "Task99/dataset.json")]), "'Task99/h' is a link"),
    "device": (tar_of(extra=[special("Task99/d", tarfile.CHRTYPE)]), "is a device or other special file"),
    "pipe": (tar_of(extra=[special("Task99/p", tarfile.FIFOTYPE)]), "is a device or other special file"),
    "bomb": (tar_of({"Task99/zeros": b"\0" * 200_000}, "w:gz"), "unpacks to more than the card's limit"),
    "many small": (tar_of({f"Task99/{i}": b"\0" * 30_000 for i in range(4)}, "w:gz"), "unpacks to more than"),
    "twice": (tar_of(extra=[special("Task99/dataset.json", tarfile.REGTYPE)]), "two entries have the name"),
    "file as folder": (tar_of({**FILES, "Task99/dataset.json/x": b"x"}), "two entries have the name"),
    "other folder": (tar_of({"Other/a": b"x"}), "the archive has no folder 'Task99'"),
    "no archive": (b"<html>moved</html>" * 100, "the archive is damaged"),
    "cut": (tar_of(mode="w:gz")[:-40], "the archive is damaged"),
    "zip parent": (zip_of({**FILES, "../evil": b"x"}), "'../evil' leads out of the folder"),
    "zip absolute": (zip_of({**FILES, "/evil": b"x"}), "'/evil' leads out of the folder"),
    "zip link": (zip_of({**FILES, "Task99/s": b"/etc"}, {"Task99/s": stat.S_IFLNK | 0o777}), "'Task99/s' is a link"),
    "zip bomb": (zip_of({"Task99/zeros": b"\0" * 200_000}), "unpacks to more than the card's limit"),
    "zip cut": (zip_of()[:-30], "the archive is damaged"),
}


@pytest.mark.parametrize(("body", "words"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_archives_leave_nothing(server, tmp_path, body, words):
    folder = tmp_path / "inside"
    with pytest.raises(RunError) as caught:
        get_dataset(card_for(body, server.serve(body), limit=100_000), folder)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert list(folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]


def test_leftovers_of_a_killed_download_are_removed(server, tmp_path):
    body = tar_of()
    own = download.temporary_path(tmp_path / "tiny")
    left = own.with_name(own.name.replace(f".{os.getpid()}.", ".999999999."))
    (left / "content").mkdir(parents=True)
    (left / "content" / "a").write_text("half")
    get_dataset(card_for(body, server.serve(body)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


def test_every_card_is_complete():
    assert "hippocampus" in list_cards()
    for name in list_cards():
        assert read_card(name).name == name


def test_the_hippocampus_card_is_the_archive_that_monai_registers():
    # Read as text: importing monai.apps takes seconds.
    monai = Path(next(iter(importlib.util.find_spec("monai").submodule_search_locations)))
    registered = (monai / "apps" / "datasets.py").read_text(encoding="utf-8")
    archive = read_card("hippocampus").archive
    method, digest = archive.checksum.split(":")
    assert method == "md5"
    assert f'"Task04_Hippocampus": "{archive.urls[0]}"' in registered
    assert f'"Task04_Hippocampus": "{digest}"' in registered


@pytest.mark.skipif("SE_MED_DATA" not in os.environ, reason="needs real volumes: set SE_MED_DATA to the data folder")
def test_the_hippocampus_card_describes_the_real_files():
    root = Path(os.environ["SE_MED_DATA"]) / "hippocampus"
    card = read_card("hippocampus")
    declared = json.loads((root / "dataset.json").read_text())
    assert {name: int(value) for value, name in declared["labels"].items() if int(value)} == card.labels
    assert list(declared["modality"].values()) == list(card.channels)
    assert read_geometry(next((root / "imagesTr").glob("*.nii.gz"))).spacing == card.spacing


@pytest.mark.parametrize(
    ("name", "words"),
    [("hipocampus", "did you mean 'hippocampus'"), ("zzz", "known: .*hippocampus"), ("../hippocampus", "no such card")],
)
def test_unknown_cards(name, words):
    with pytest.raises(UsageError, match=words):
        read_card(name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("http://x/", "ftp://x/"), "archive.urls.0: URL scheme should be 'http' or 'https'"),
        (("md5:", "crc:"), "archive.checksum: String should match"),
        (("Task99", "../Task99"), "archive.folder: String should match"),
        (("{a: 1, b: 2}", "{a: 1, b: 1}"), "labels: .*same value"),
        (("name: tiny", "name: ../tiny"), "name: String should match"),
        (("cases: 1", "cases: 1\nextra: 2"), "extra: Extra inputs are not permitted"),
        (("cases: 1", "cases: ["), "no YAML"),
    ],
)
def test_cards_with_faults(change, words):
    text = CARD.format(urls="http://x/a.tar", checksum="md5:" + "0" * 32, limit=10).replace(*change)
    with pytest.raises(ConfigError, match=r"tiny\.yaml: " + words):
        parse_card(text, "tiny.yaml")


def test_an_entry_without_a_name_is_damage(tmp_path):
    from se_med.data.archive import unpack

    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"content")
        archive.filelist[0].filename = ""
    with pytest.raises(RunError, match=r"set\.zip: the archive is damaged \(an entry without a name\)"):
        unpack(path, tmp_path / "out", 1000)
