"""Preparing data: time, peak memory and disk, of se-med, MONAI's PersistentDataset and, where it is installed, nnU-Net.

Two data sets: a folder of small volumes (the 208 cases of the hippocampus), and synthetic CT of 512x512x120 voxels in several
spacings. Every contestant runs in a process of its own, from files to prepared files in an empty folder; time is that of the
preparation without importing libraries, memory the largest resident set of the process and its workers together.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

CT_SHAPE = (512, 512, 120)
CT_SPACINGS = ((0.7, 0.7, 3.0), (0.8, 0.8, 2.5), (0.9, 0.9, 2.5), (0.75, 0.75, 2.5))
PUBLISHED = {
    "hippocampus": {"nnU-Net, 2 processes, its own defaults": 66.0, "nnU-Net, tuned": 32.0},
}
"""Seconds of nnU-Net 2.8 for fingerprint and preprocessing of the same 208 cases on 2 cores, measured apart from this."""


def make_ct(root: Path, cases: int) -> None:
    """Write noisy bodies with two organs in the layout of the Medical Segmentation Decathlon."""
    import nibabel as nib

    for part in ("imagesTr", "labelsTr"):
        (root / part).mkdir(parents=True, exist_ok=True)
    grid = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32) for size in CT_SHAPE], indexing="ij", sparse=True)
    names = [f"ct_{number:02d}" for number in range(cases)]
    for number, name in enumerate(names):
        generator = np.random.default_rng(number)
        body = (grid[0] / 0.8) ** 2 + (grid[1] / 0.6) ** 2 < 1
        image = np.where(body & np.ones(CT_SHAPE, bool), 40.0, -1000.0).astype(np.float32)
        label = np.zeros(CT_SHAPE, np.uint8)
        for value in (1, 2):
            centre = generator.uniform(-0.3, 0.3, 3)
            organ = sum(((axis - middle) / 0.2) ** 2 for axis, middle in zip(grid, centre, strict=True)) < 1
            image[organ], label[organ] = 100.0 * value, value
        image += generator.normal(0, 20, CT_SHAPE).astype(np.float32)
        affine = np.diag([*CT_SPACINGS[number % len(CT_SPACINGS)], 1.0])
        for part, array in (("imagesTr", image.astype(np.int16)), ("labelsTr", label)):
            nib.save(nib.Nifti1Image(array, affine), root / part / f"{name}.nii.gz")
    description = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "liver", "2": "kidney"},
        "training": [{"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"} for name in names],
    }
    (root / "dataset.json").write_text(json.dumps(description), encoding="utf-8")


def with_se_med(root: Path, target: Path) -> dict[str, float]:
    """Fingerprint, plan and prepare all cases."""
    from se_med.config.experiment import Config
    from se_med.data.cache import prepare_cases
    from se_med.data.fingerprint import take_fingerprint
    from se_med.data.layouts import find_dataset
    from se_med.data.planning import make_plan

    config = Config.model_validate({"data": {"root": root}, "training": {"device": "cpu"}})
    begin = time.perf_counter()
    dataset = find_dataset(config.data)
    plan = make_plan(config, dataset, take_fingerprint(dataset))
    read = time.perf_counter()
    prepare_cases(dataset.cases, plan, target)
    done = time.perf_counter()
    prepare_cases(dataset.cases, plan, target)
    return {"fingerprint": read - begin, "prepare": done - read, "seconds": done - begin, "again": time.perf_counter() - done}


def with_monai(root: Path, target: Path) -> dict[str, float]:
    """Load, orient, resample and normalise through PersistentDataset, with as many worker processes as cores."""
    from monai.data import DataLoader, PersistentDataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        NormalizeIntensityd,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
    )

    description = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    files = [{key: str(root / entry[key]) for key in ("image", "label")} for entry in description["training"]]
    keys = ("image", "label")
    if "CT" in description["modality"]["0"].upper():
        spacing = tuple(float(value) for value in np.median(CT_SPACINGS, axis=0))
        normalise = ScaleIntensityRanged(("image",), -100.0, 300.0, -1.0, 1.0, clip=True)
    else:
        spacing, normalise = (1.0, 1.0, 1.0), NormalizeIntensityd(("image",))
    chain = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            Orientationd(keys, axcodes="RAS"),
            Spacingd(keys, pixdim=spacing, mode=("bilinear", "nearest")),
            normalise,
        ]
    )
    begin = time.perf_counter()
    dataset = PersistentDataset(files, chain, cache_dir=target)
    workers = os.cpu_count() or 1
    # Forked, as by default on Linux; this process was spawned.
    for _ in DataLoader(dataset, num_workers=workers, collate_fn=lambda batch: None, multiprocessing_context="fork"):
        pass
    done = time.perf_counter()
    return {"seconds": done - begin}


def with_nnunet(root: Path, target: Path) -> dict[str, float]:
    """Fingerprint, plan and preprocess the full resolution with nnU-Net's own functions and as many processes as cores."""
    raw, name = target / "raw", "Dataset900_Benchmark"
    for part in ("imagesTr", "labelsTr"):
        (raw / name / part).mkdir(parents=True)
    description = json.loads((root / "dataset.json").read_text(encoding="utf-8"))
    for entry in description["training"]:
        image, label = root / entry["image"], root / entry["label"]
        stem = image.name.removesuffix(".nii.gz")
        (raw / name / "imagesTr" / f"{stem}_0000.nii.gz").symlink_to(image.resolve())
        (raw / name / "labelsTr" / label.name).symlink_to(label.resolve())
    labels = {text: int(value) for value, text in description["labels"].items()}
    channels = {"0": description["modality"]["0"]}
    content = {"channel_names": channels, "labels": labels, "numTraining": len(description["training"]), "file_ending": ".nii.gz"}
    (raw / name / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    for variable, folder in (("raw", raw), ("preprocessed", target / "preprocessed"), ("results", target / "results")):
        folder.mkdir(exist_ok=True)
        os.environ[f"nnUNet_{variable}"] = str(folder)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    workers = os.cpu_count() or 1
    begin = time.perf_counter()
    extract_fingerprints([900], num_processes=workers, check_dataset_integrity=False)
    identifier = plan_experiments([900])
    preprocess([900], identifier or "nnUNetPlans", configurations=("3d_fullres",), num_processes=(workers,))
    return {"seconds": time.perf_counter() - begin}


CONTESTANTS: dict[str, Callable[[Path, Path], dict[str, float]]] = {
    "se-med": with_se_med,
    "MONAI PersistentDataset": with_monai,
    "nnU-Net": with_nnunet,
}


def run_apart(name: str, root: Path, folder: Path) -> dict[str, Any]:
    """Run a contestant in a process of its own with an empty target folder; returns times, memory and disk, or an error."""
    target = Path(tempfile.mkdtemp(dir=folder))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("spawn").Process(target=_work, args=(name, root, target, sender))
    process.start()
    sender.close()
    try:
        found: dict[str, Any] = receiver.recv()
    except EOFError:
        found = {"error": "the process ended"}
    process.join()
    found["disk_mb"] = sum(path.lstat().st_size for path in target.rglob("*") if path.is_file()) / 1e6
    shutil.rmtree(target)
    return found


def _work(name: str, root: Path, target: Path, sender: Any) -> None:
    import torch

    torch.set_num_threads(1)
    import monai.data
    import monai.transforms  # noqa: F401  (what it costs to import is not counted)

    before = time.process_time()
    try:
        found: dict[str, Any] = dict(CONTESTANTS[name](root, target))
    except ImportError as error:
        sender.send({"error": f"not installed ({error.name})"})
        return
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own, largest = (usage.ru_maxrss for usage in usages)
    # The largest worker stands for each of them.
    found["memory_mb"] = (own + (os.cpu_count() or 1) * largest) * 1024 / 1e6
    found["cpu_seconds"] = sum(usage.ru_utime + usage.ru_stime for usage in usages) - before
    sender.send(found)


def table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """Return a Markdown table: the median of the rounds."""
    lines = ["| data | contestant | s | s of all cores together | MB of memory | MB on disk |", "|---|---|---|---|---|---|"]
    keys = ("seconds", "cpu_seconds", "memory_mb", "disk_mb")
    for data, contestants in results.items():
        for name, rounds in contestants.items():
            errors = [found["error"] for found in rounds if "error" in found]
            if errors:
                lines.append(f"| {data} | {name} | {errors[0]} | | | |")
                continue
            seconds, cpu, memory, disk = (statistics.median(found[key] for found in rounds) for key in keys)
            lines.append(f"| {data} | {name} | {seconds:.1f} | {cpu:.1f} | {memory:.0f} | {disk:.0f} |")
        for name, seconds in PUBLISHED.get(data, {}).items():
            lines.append(f"| {data} | {name}: published, not measured here | {seconds:.0f} | | | |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    from se_med.training.provenance import machine, software

    parser = argparse.ArgumentParser(prog="python -m benchmarks preparation", description=__doc__)
    parser.add_argument("--hippocampus", type=Path, help="folder of the hippocampus data set; left out where not given")
    parser.add_argument("--ct", type=int, default=10, help="number of synthetic CT cases; 0 for none")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTANTS), default=list(CONTESTANTS))
    parser.add_argument("--folder", type=Path, help="where to write what is prepared; default: a temporary folder")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "preparation")
    options = parser.parse_args(arguments)
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sets = {}
        if options.hippocampus is not None:
            sets["hippocampus"] = options.hippocampus.resolve()
        if options.ct:
            sets["CT"] = Path(folder) / "ct"
            make_ct(sets["CT"], options.ct)
        for data, root in sets.items():
            results[data] = {name: [run_apart(name, root, Path(folder)) for _ in range(options.rounds)] for name in options.only}
    text = table(results)
    print(text)
    git = ["/usr/bin/env", "git", "rev-parse", "--short", "HEAD"]
    record = {
        "rounds": options.rounds,
        "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),  # noqa: S603  (fixed)
        "machine": machine(),
        "software": software(),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.with_suffix(".md").write_text(text, encoding="utf-8")
    options.output.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0
