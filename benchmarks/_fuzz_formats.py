"""Good files of every format that se-med reads, their readers, and ways to damage them."""

from __future__ import annotations

import gzip
import io
import json
import random
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from PIL import Image

Reader = Callable[[Path], Any]

NUMBERS = (0, 1, -1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, -(2**31), 2**32 - 1, 2**62)
WORDS = (
    *("0", "-1", "1e999", "-1e-999", ".nan", ".inf", "null", "~", "true", "[]", "{}", "''", '"', "'", "9" * 400, "0x", "1_0"),
    *(
        "../../x",
        "/etc/passwd",
        "*a",
        "&a",
        "!!python/name:os.system",
        "!x",
        "<<",
        "%YAML 9.9",
        "---",
        "...",
        "\t",
        "\0",
        "\ud7ff",
    ),
    *("nan", "1:30", "2001-01-01", "? ", "- ", ": ", ", ", "|", ">", "#", "\u2028", "\u202e", "é", "🧠", "[" * 60, "{a: " * 60),
)


@dataclass(frozen=True)
class Format:
    """A good file, and who reads it.

    Attributes:
        path: where mutants are written.
        seeds: contents of good files.
        readers: functions that must read or refuse it.
        text: damaged by words, not only by bytes.
        packed: unpacks the part behind the header that is compressed, and packs it again; None where nothing is.
    """

    path: Path
    seeds: Sequence[bytes]
    readers: Sequence[Reader]
    text: bool = False
    packed: tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]] | None = None

    def write(self, content: bytes) -> None:
        """Write a mutant."""
        self.path.write_bytes(content)


class Maker:
    """Makes a format in a folder; the weight is its share of the mutants."""

    def __init__(self, make: Callable[[Path], Format], weight: int) -> None:
        self.make = make
        self.weight = weight
        self.__name__ = make.__name__

    def __call__(self, folder: Path) -> Format:
        """Make the format in a folder of its own."""
        own = folder / self.__name__
        own.mkdir(exist_ok=True)
        return self.make(own)


def mutate(made: Format, random: random.Random) -> bytes:
    """Return a damaged good file."""
    content = random.choice(made.seeds)
    if made.packed is not None and random.random() < 0.6:
        unpack, pack = made.packed
        return pack(_damaged(unpack(content), random, made.text))
    return _damaged(content, random, made.text)


def _damaged(content: bytes, random: random.Random, text: bool) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        if not changed:
            break
        if text and random.random() < 0.7:
            _damage_text(changed, random)
        else:
            _damage_bytes(changed, random)
    return bytes(changed)


def _damage_bytes(changed: bytearray, random: random.Random) -> None:
    # Headers are at the beginning: half of the damage is done there.
    end = min(len(changed), 360) if random.random() < 0.5 else len(changed)
    at = random.randrange(end)
    length = random.choice((1, 2, 4, 8, random.randrange(1, 200)))
    how = random.randrange(8)
    if how == 0:
        changed[at] ^= 1 << random.randrange(8)
    elif how == 1:
        changed[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    elif how == 2:
        del changed[at : at + length]
    elif how == 3:
        changed[at:at] = changed[at : at + length]
    elif how == 4:
        changed[at:at] = random.randbytes(min(length, 16))
    elif how == 5:
        del changed[at:]
    elif how == 6:
        size = random.choice((2, 4, 8))
        number = random.choice(NUMBERS) % (1 << 8 * size)
        changed[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
    else:
        changed[at : at + 4] = np.float32(random.choice((0, -1, 1e-30, 1e30, np.nan, np.inf, -np.inf, 0.5))).tobytes()


def _damage_text(changed: bytearray, random: random.Random) -> None:
    lines = changed.split(b"\n")
    row = random.randrange(len(lines))
    word = random.choice(WORDS).encode()
    how = random.randrange(7)
    if how == 0:
        lines.insert(row, lines[random.randrange(len(lines))])
    elif how == 1:
        del lines[row]
    elif how == 2:
        lines[row] = random.choice((b" ", b"  ", b"\t", b"- ", b"")) + lines[row].lstrip()
    elif how == 3:
        at = random.randrange(len(lines[row]) + 1)
        lines[row] = lines[row][:at] + word + lines[row][at:]
    else:
        head, mark, rest = lines[row].partition(random.choice((b":", b",", b"=", b" ", b"[")))
        lines[row] = (head + mark + b" " + word if how < 6 else word + mark + rest) if mark else word
    changed[:] = b"\n".join(lines)


# The formats


def _voxels(dtype: Any = np.int16) -> np.ndarray:
    return np.arange(7 * 6 * 5).reshape(7, 6, 5).astype(dtype)


def _readers() -> list[Reader]:
    from se_med.io.images import read_geometry, read_image, read_label

    return [read_geometry, read_image, read_label]


def _nifti(kind: Any, dtype: Any = np.int16) -> bytes:
    image = kind(_voxels(dtype), np.diag([-0.8, 0.9, 2.5, 1]))
    image.header.set_xyzt_units("mm")
    content: bytes = image.to_bytes()
    return content


def _gz(unpacked: bytes) -> bytes:
    return gzip.compress(unpacked, compresslevel=1, mtime=0)


def nifti(folder: Path) -> Format:
    """Single NIfTI-1 and NIfTI-2 files."""
    seeds = [_nifti(nibabel.Nifti1Image), _nifti(nibabel.Nifti1Image, np.float32), _nifti(nibabel.Nifti2Image, np.uint8)]
    return Format(folder / "a.nii", seeds, _readers())


def nifti_gz(folder: Path) -> Format:
    """The same, compressed."""
    seeds = [_gz(seed) for seed in nifti(folder).seeds]
    return Format(folder / "a.nii.gz", seeds, _readers(), packed=(gzip.decompress, _gz))


def nifti_pair(folder: Path) -> Format:
    """The header of a pair."""
    (folder / "a.img").write_bytes(_voxels().tobytes(order="F"))
    header = bytearray(_nifti(nibabel.Nifti1Image)[:348])
    header[344:348] = b"ni1\0"
    header[108:112] = bytes(4)
    return Format(folder / "a.hdr", [bytes(header)], _readers())


NRRD = (
    "NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\n"
    "space directions: (0.8,0,0) (0,0.9,0) (0,0,2.5)\nkinds: domain domain domain\nendian: little\nencoding: {}\n"
    "space origin: (-20,30.5,7)\n\n"
)
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = {}\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = -20 30.5 7\nElementSpacing = 0.8 0.9 2.5\nDimSize = 7 6 5\n"
    "ElementType = MET_SHORT\nElementDataFile = LOCAL\n"
)


def nrrd(folder: Path) -> Format:
    """NRRD, raw and gzip."""
    voxels = _voxels().tobytes(order="F")
    seeds = [NRRD.format("raw").encode() + voxels, NRRD.format("gzip").encode() + _gz(voxels)]
    return Format(folder / "a.nrrd", seeds, _readers(), text=True)


def metaimage(folder: Path) -> Format:
    """MetaImage, raw and zlib."""
    voxels = _voxels().tobytes(order="F")
    seeds = [META.format("False").encode() + voxels, META.format("True").encode() + zlib.compress(voxels)]
    return Format(folder / "a.mha", seeds, _readers(), text=True)


def _pictures(kind: str, **options: Any) -> list[bytes]:
    contents = []
    grey = (np.arange(20 * 16) % 256).astype(np.uint8).reshape(20, 16)
    for pixels in (grey, np.stack([grey] * 3, -1)):
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, format=kind, **options)
        contents.append(content.getvalue())
    return contents


def _flat_readers() -> list[Reader]:
    from se_med.io.image2d import read_flat_size

    return [read_flat_size, *_readers()]


def _repaired(content: bytes) -> bytes:
    """Give the chunks of a damaged PNG the right sums, so that what is behind the sums is reached."""
    result, at = bytearray(content[:8]), 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4], "big")
        if at + 12 + length > len(content):
            break
        body = content[at + 4 : at + 8 + length]
        result += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + length
    return bytes(result) + content[at:]


def png(folder: Path) -> Format:
    """PNG, with wrong and with right sums."""
    return Format(folder / "a.png", _pictures("PNG"), _flat_readers(), packed=(bytes, _repaired))


def jpeg(folder: Path) -> Format:
    """JPEG."""
    return Format(folder / "a.jpg", _pictures("JPEG"), _flat_readers())


def tiff(folder: Path) -> Format:
    """TIFF, raw and compressed."""
    seeds = [*_pictures("TIFF"), *_pictures("TIFF", compression="tiff_lzw"), *_pictures("TIFF", compression="tiff_deflate")]
    return Format(folder / "a.tif", seeds, _flat_readers())


def config_yaml(folder: Path) -> Format:
    """Configurations."""
    from se_med.config.load import load_config

    paths = [path for path in sorted(Path("configs").glob("**/*.yaml")) if b"arms:" not in path.read_bytes()]
    for path in paths:  # those that others extend lie beside them
        (folder / path.name).write_bytes(path.read_bytes())
    seeds = [path.read_bytes() for path in paths] or [b"name: a\ntraining: {steps: 2}\n"]
    return Format(folder / "a.yaml", seeds, [load_config], text=True)


def study_yaml(folder: Path) -> Format:
    """Studies."""
    from se_med.study.arms import load_study

    (folder / "base.yaml").write_text("name: base\ndata: {root: .}\ntraining: {steps: 2}\n")
    seed = (
        "base: base.yaml\nsettings:\n  training.steps: 9\narms:\n  plain: {attention: null}\n  cse: {attention: cse}\n"
        "  wide: {control: wider, of: cse}\nsweep:\n  network.features: [[4, 8], [8, 16]]\nreference: plain\nfolds: [0, 1]\n"
        "seeds: [0, 1]\nendpoint: mean_dice\nmargin: 0.01\n"
    )
    return Format(folder / "study.yaml", [seed.encode()], [load_study], text=True)


def dataset_json(folder: Path) -> Format:
    """`dataset.json` of the Decathlon and of nnU-Net."""
    from se_med.config.data import DataConfig
    from se_med.data.layouts import find_dataset

    (folder / "imagesTr").mkdir(exist_ok=True)
    (folder / "labelsTr").mkdir(exist_ok=True)
    for part in ("imagesTr", "labelsTr"):
        (folder / part / "a.nii").write_bytes(b"")
    entries = [{"image": "./imagesTr/a.nii", "label": "./labelsTr/a.nii"}]
    contents = [
        {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "tumour"}, "training": entries},
        {"channel_names": {"0": "T1"}, "labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]},
    ]

    def read_dataset(path: Path) -> Any:
        return find_dataset(DataConfig(root=path.parent))

    seeds = [json.dumps(content, indent=1).encode() for content in contents]
    return Format(folder / "dataset.json", seeds, [read_dataset], text=True)


def tables(folder: Path) -> Format:
    """Tables of cases, and work lists of predictions."""
    from se_med.config.data import DataConfig
    from se_med.data.layouts import find_dataset
    from se_med.inference.cases import find_cases

    for name in ("a.nii", "b.nii", "c.nii"):
        (folder / name).write_bytes(b"")

    def read_table(path: Path) -> Any:
        return find_dataset(DataConfig(root=path.parent, layout="table"))

    def read_work_list(path: Path) -> Any:
        return find_cases([path], path.parent / "out", 1)

    seed = b"case,image,label,group,fold,age\nx,a.nii,b.nii,g1,0,30\ny,b.nii,c.nii,g2,1,40\n"
    return Format(folder / "cases.csv", [seed, seed.replace(b",", b";")], [read_table, read_work_list], text=True)


def plan_json(folder: Path) -> Format:
    """Plans, folds and sidecars of predictions."""
    from se_med.data.folds import read_split
    from se_med.evaluation.meaning import _read_sidecar
    from se_med.inference.model import read_plan
    from se_med.inference.table import write_table

    def read_results(path: Path) -> Any:
        (path.parent / "predictions.csv").write_bytes(path.read_bytes())
        return write_table(path.parent, [])

    plan = {
        "version": 1, "spatial_dims": 3, "slice_axis": None, "channels": ["c0"], "labels": {"front": 3, "back": 7},
        "spacing": [1.0, 1.0, 1.0], "normalisation": [{"method": "zscore"}], "patch": [16, 16, 16], "batch_size": 2,
        "features": [4, 8], "strides": [[2, 2, 2]], "kernels": [[3, 3, 3], [3, 3, 3]], "stem": [1, 1, 1], "flip_axes": [],
        "median_shape": [16, 16, 16], "cases": 1,
    }  # fmt: skip
    split = [{"train": ["a", "b"], "validation": ["c"]}]
    sidecar = {"se_med": "1", "model": "x", "label": "a.nii", "labels": {"front": 3}, "volumes_ml": {"front": 1.5}}
    seeds = [json.dumps(content, indent=1).encode() for content in (plan, split, sidecar)]
    return Format(folder / "a.json", seeds, [read_plan, read_split, _read_sidecar, read_results], text=True)


def weights(folder: Path) -> Format:
    """Weights: safetensors files and their headers."""
    import torch
    from safetensors.torch import save

    from se_med.inference.model import _read_weights

    seed = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(4)}, metadata={"se_med": json.dumps({"format": "1"})})
    return Format(folder / "model.safetensors", [seed], [_read_weights])


def checkpoint(folder: Path) -> Format:
    """Checkpoints: the archive, and with right checksums the pickle in it."""
    import torch

    from se_med.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint

    path = folder / "last.ckpt"
    state = TrainingState(step=3, network={"w": torch.arange(6.0)}, optimizer={"state": {0: {"step": torch.tensor(3.0)}}})
    save_checkpoint(path, state)
    seed = path.read_bytes()

    def pickle_of(content: bytes) -> bytes:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))

    def with_pickle(data: bytes) -> bytes:
        result = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(seed)) as archive, zipfile.ZipFile(result, "w") as packed:
            for name in archive.namelist():
                packed.writestr(name, data if name.endswith("data.pkl") else archive.read(name))
        return result.getvalue()

    return Format(path, [seed], [load_checkpoint], packed=(pickle_of, with_pickle))


def archives(folder: Path) -> Format:
    """Archives of data sets: zip and tar, plain and compressed."""
    from se_med.data.archive import unpack

    seeds = []
    for mode in ("w", "w:gz", "w:xz"):
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode=mode) as tar:  # type: ignore[call-overload]
            for name in ("set/a.nii", "set/deep/b.nii"):
                info = tarfile.TarInfo(name)
                info.size = 300
                tar.addfile(info, io.BytesIO(bytes(range(100)) * 3))
        seeds.append(content.getvalue())
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in ("set/a.nii", "set/deep/b.nii"):
            packed.writestr(name, bytes(range(100)) * 3)
    seeds.append(content.getvalue())

    def unpack_archive(path: Path) -> None:
        target = path.parent / "content"
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        try:
            unpack(path, target, 100_000)
        except OSError as error:  # told as a full disk by who calls it: a name that is too long, a folder of a file's name
            if error.filename is None or not Path(error.filename).is_relative_to(target):
                raise
        outside = [found.name for found in path.parent.iterdir() if found.name not in ("content", path.name)]
        if outside:
            raise RuntimeError(f"left the folder: {outside}")

    return Format(folder / "set.archive", seeds, [unpack_archive])


FORMATS = {
    maker.__name__: maker
    for maker in (
        *(Maker(nifti, 24), Maker(nifti_gz, 24), Maker(nifti_pair, 8), Maker(nrrd, 12), Maker(metaimage, 12)),
        *(Maker(png, 6), Maker(jpeg, 4), Maker(tiff, 5), Maker(config_yaml, 8), Maker(study_yaml, 3), Maker(dataset_json, 5)),
        *(Maker(tables, 4), Maker(plan_json, 4), Maker(weights, 4), Maker(checkpoint, 4), Maker(archives, 4)),
    )
}
"""Every format by name."""
