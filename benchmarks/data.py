"""Reading, preparing and augmenting a case: processor seconds of one thread, beside MONAI, torchio and batchgeneratorsv2.

All take turns in one process; the median of the rounds is reported. Seconds are of the processor, so that other work on the
machine matters little. Everybody starts from the same noisy volume: for reading and preparing from its compressed file, for
augmenting from prepared cases (ours mapped from disk, theirs in memory), from which everybody takes a random patch and applies
the transforms and probabilities of our default, as far as they have them. ``pip install 'se-med[bench]'`` installs the peers; one
that is missing is left out, and the table says so.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from benchmarks._records import write_record
from se_med.config.augmentation import AugmentationConfig
from se_med.data.cache import prepare_cases
from se_med.data.case import Case
from se_med.data.plan import Normalisation, Plan
from se_med.data.preparation import Preparation
from se_med.data.stream import PatchStream
from se_med.io.images import read_image, read_label

Work = Callable[[int], object]
"""Does a piece of work; its argument numbers the repetitions."""
SPACING, TARGET = (0.8, 0.8, 2.5), (1.0, 1.0, 2.0)
LABELS = {"organ": 1, "lesion": 2}


def write_case(folder: Path, shape: Sequence[int], spacing: Sequence[float]) -> Case:
    """Write a noisy CT-like volume with two structures, 16 bit, and return it as a case."""
    generator = np.random.default_rng(0)
    grid = np.meshgrid(*[np.linspace(-1, 1, size, dtype=np.float32) for size in shape], indexing="ij", sparse=True)
    far = sum((axis / width) ** 2 for axis, width in zip(grid, (0.8, 0.6, 2.0), strict=True))
    label = (far < 0.3).astype(np.uint8) + (far < 0.05).astype(np.uint8)
    image = np.where(far < 1, 40 + 60 * label.astype(np.float32), -1000) + generator.normal(0, 20, shape)
    affine = np.diag([*spacing, 1.0])
    paths = folder / "image.nii.gz", folder / "label.nii.gz"
    for path, array in zip(paths, (image.astype(np.int16), label), strict=True):
        nib.save(nib.Nifti1Image(array, affine), path)
    return Case("case", (paths[0],), paths[1], None)


def make_plan(patch: Sequence[int], spacing: Sequence[float]) -> Plan:
    """Return a plan of the two structures; nothing of the network matters here."""
    return Plan.model_validate(
        {
            "spatial_dims": 3,
            "slice_axis": None,
            "channels": ("CT",),
            "labels": LABELS,
            "spacing": tuple(spacing),
            "normalisation": (Normalisation(method="zscore"),),
            "patch": tuple(patch),
            "batch_size": 2,
            "features": (4, 8),
            "strides": ((2, 2, 2),),
            "kernels": ((3, 3, 3), (3, 3, 3)),
            "stem": (1, 1, 1),
            "flip_axes": (0,),
            "median_shape": tuple(patch),
            "cases": 1,
        }
    )


def readers(case: Case) -> dict[str, Callable[[], Work]]:
    """Return who reads image and label."""
    paths = [case.images[0], case.label]

    def monai() -> Work:
        from monai.transforms.io.dictionary import LoadImaged

        load = LoadImaged(("image", "label"))
        return lambda _: load(dict(zip(("image", "label"), map(str, paths), strict=True)))

    def torchio() -> Work:
        import torchio as tio

        return lambda _: [tio.ScalarImage(paths[0]).data, tio.LabelMap(paths[1]).data]

    return {
        "se-med": lambda: lambda _: (read_image(paths[0]), read_label(paths[1])),
        "nibabel": lambda: lambda _: [np.asanyarray(nib.load(path).dataobj) for path in paths],
        "MONAI": monai,
        "torchio": torchio,
    }


def preparers(case: Case, plan: Plan) -> dict[str, Callable[[], Work]]:
    """Return who reads, orients, resamples and normalises."""

    def ours() -> Work:
        preparation = Preparation(plan)

        def run(_: int) -> object:
            prepared = preparation.forward(read_image(case.images[0]))
            return prepared, preparation.forward_label(read_label(case.label), prepared)

        return run

    def monai() -> Work:
        from monai.transforms.compose import Compose
        from monai.transforms.intensity.dictionary import NormalizeIntensityd
        from monai.transforms.io.dictionary import LoadImaged
        from monai.transforms.spatial.dictionary import Orientationd, Spacingd

        keys = ("image", "label")
        chain = Compose(
            [
                LoadImaged(keys, ensure_channel_first=True),
                Orientationd(keys, axcodes="RAS"),
                Spacingd(keys, pixdim=TARGET, mode=("bilinear", "nearest")),
                NormalizeIntensityd("image"),
            ]
        )
        return lambda _: chain({"image": str(case.images[0]), "label": str(case.label)})

    def torchio() -> Work:
        import torchio as tio

        chain = tio.Compose([tio.ToCanonical(), tio.Resample(TARGET), tio.ZNormalization()])
        return lambda _: chain(tio.Subject(image=tio.ScalarImage(case.images[0]), label=tio.LabelMap(case.label)))

    return {"se-med": ours, "MONAI": monai, "torchio": torchio}


def augmenters(case: Case, plan: Plan, folder: Path, interpolation: str = "linear") -> dict[str, Callable[[], Work]]:
    """Return who takes a random patch of a prepared case and transforms it; ours and MONAI alone with cubic splines."""
    prepared = prepare_cases([case], plan, folder, workers=1)
    config = AugmentationConfig.model_validate({"flip": {"axes": (0,)}, "interpolation": interpolation})
    image, label = torch.from_numpy(np.array(prepared[0].image)), torch.from_numpy(np.array(prepared[0].label))[None]
    degrees, (low, high) = config.affine.rotation, config.affine.scale

    def ours() -> Work:
        return PatchStream(prepared, plan, config, foreground=0.0, seed=0).__getitem__

    def monai(track: bool) -> Work:
        from monai.data.meta_obj import set_track_meta
        from monai.data.meta_tensor import MetaTensor

        chain = _monai_chain(config, plan.patch)
        sample = {"image": MetaTensor(image), "label": MetaTensor(label)} if track else {"image": image, "label": label}

        def run(_: int) -> object:
            set_track_meta(track)
            try:
                return chain(dict(sample))
            finally:
                set_track_meta(True)

        return run

    def bgv2() -> Work:
        chain = _bgv2_chain(config, plan.patch)
        return lambda _: chain(image=image, segmentation=label)

    def torchio() -> Work:
        import torchio as tio

        chance = {step: getattr(config, step).probability for step in ("affine", "noise", "blur", "low_resolution", "gamma")}
        chain = tio.Compose(
            [
                tio.RandomFlip(axes=(0,), flip_probability=0.5),
                tio.RandomAffine(scales=(low, high), degrees=degrees, isotropic=True, p=chance["affine"]),
                tio.RandomNoise(std=config.noise.std, p=chance["noise"]),
                tio.RandomBlur(std=config.blur.sigma, p=chance["blur"]),
                tio.RandomAnisotropy(downsampling=(1, 2), p=chance["low_resolution"]),
                tio.RandomGamma(log_gamma=tuple(map(math.log, config.gamma.gamma)), p=chance["gamma"]),
            ]
        )
        subject = tio.Subject(image=tio.ScalarImage(tensor=image), label=tio.LabelMap(tensor=label))
        sampler = tio.data.UniformSampler(plan.patch)
        return lambda _: chain(next(iter(sampler(subject, 1))))

    either = {
        "se-med": ours,
        "MONAI": lambda: monai(track=True),
        "MONAI, set_track_meta(False)": lambda: monai(track=False),
    }
    linear = {"batchgeneratorsv2": bgv2, "torchio, without brightness and contrast": torchio}
    return either if interpolation == "cubic" else either | linear


def _monai_chain(config: AugmentationConfig, patch: Sequence[int]) -> Callable[[dict[str, Any]], object]:
    from monai.transforms import compose
    from monai.transforms.croppad.dictionary import RandSpatialCropd
    from monai.transforms.intensity import dictionary as intensity
    from monai.transforms.spatial import dictionary as spatial

    keys, angle, scale = ("image", "label"), math.radians(config.affine.rotation), config.affine.scale
    factors, contrasts = config.brightness.factor, config.contrast.factor
    sigma = config.blur.sigma
    chain: Callable[[dict[str, Any]], object] = compose.Compose(
        [
            RandSpatialCropd(keys, patch, random_size=False),
            spatial.RandFlipd(keys, prob=0.5, spatial_axis=0),
            spatial.RandAffined(
                keys,
                prob=config.affine.probability,
                rotate_range=[(-angle, angle)] * 3,
                scale_range=[(scale[0] - 1, scale[1] - 1)] * 3,
                mode=(3 if config.interpolation == "cubic" else "bilinear", "nearest"),
                padding_mode="border",
            ),
            intensity.RandGaussianNoised("image", prob=config.noise.probability, std=config.noise.std[1]),
            intensity.RandGaussianSmoothd("image", sigma, sigma, sigma, prob=config.blur.probability),
            intensity.RandScaleIntensityd("image", tuple(f - 1 for f in factors), prob=config.brightness.probability),
            intensity.RandScaleIntensityFixedMeand(
                "image", factors=tuple(f - 1 for f in contrasts), prob=config.contrast.probability
            ),
            spatial.RandSimulateLowResolutiond(
                "image", prob=config.low_resolution.probability, zoom_range=config.low_resolution.zoom, upsample_mode="trilinear"
            ),
            intensity.RandAdjustContrastd("image", prob=config.gamma.probability, gamma=config.gamma.gamma, retain_stats=True),
        ]
    )
    return chain


def _bgv2_chain(config: AugmentationConfig, patch: Sequence[int]) -> Callable[..., object]:
    from batchgeneratorsv2.transforms.intensity.brightness import MultiplicativeBrightnessTransform
    from batchgeneratorsv2.transforms.intensity.contrast import ContrastTransform
    from batchgeneratorsv2.transforms.intensity.gamma import GammaTransform
    from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
    from batchgeneratorsv2.transforms.noise.gaussian_blur import GaussianBlurTransform
    from batchgeneratorsv2.transforms.spatial.low_resolution import SimulateLowResolutionTransform
    from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
    from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
    from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
    from batchgeneratorsv2.transforms.utils.random import RandomTransform

    angle, affine = math.radians(config.affine.rotation), config.affine
    everywhere = {"synchronize_channels": False, "p_per_channel": 1}
    steps = [
        (config.noise, GaussianNoiseTransform((0, config.noise.std[1] ** 2), 1, True)),
        (config.blur, GaussianBlurTransform(config.blur.sigma, False, False, 1)),
        (config.brightness, MultiplicativeBrightnessTransform(config.brightness.factor, **everywhere)),
        (config.contrast, ContrastTransform(config.contrast.factor, preserve_range=False, **everywhere)),
        (
            config.low_resolution,
            SimulateLowResolutionTransform(config.low_resolution.zoom, synchronize_axes=True, ignore_axes=(), **everywhere),
        ),
        (config.gamma, GammaTransform(config.gamma.gamma, 0, p_retain_stats=1, **everywhere)),
    ]
    chances = {"p_rotation": affine.probability, "p_scaling": affine.probability, "p_synchronize_scaling_across_axes": 1}
    chain: Callable[..., object] = ComposeTransforms(
        [
            SpatialTransform(tuple(patch), 0, True, rotation=(-angle, angle), scaling=affine.scale, **chances),
            *(RandomTransform(transform, apply_probability=step.probability) for step, transform in steps),
            MirrorTransform((0,)),
        ]
    )
    return chain


def measure(contestants: dict[str, Callable[[], Work]], rounds: int, repetitions: int) -> dict[str, list[float] | str]:
    """Return by name the processor seconds of one piece of work in each round, or why there are none."""
    found: dict[str, list[float] | str] = {}
    work: dict[str, Work] = {}
    for name, make in contestants.items():
        try:
            work[name] = make()
        except ImportError as error:
            found[name] = f"not installed ({error.name})"
            continue
        work[name](0)
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds):
        for name, run in work.items():
            begin = time.process_time()
            for repetition in range(repetitions):
                run(turn * repetitions + repetition)
            seconds[name].append((time.process_time() - begin) / repetitions)
    return {name: found.get(name) or seconds[name] for name in contestants}


def table(measured: dict[str, dict[str, list[float] | str]]) -> str:
    """Return a Markdown table: the medians, and how many times as long as ours they are."""
    lines = [
        "Processor milliseconds of one thread, median of the rounds.",
        "",
        "| work | by | ms | times se-med |",
        "|---|---|---|---|",
    ]
    for work, contestants in measured.items():
        ours = statistics.median(contestants["se-med"])
        for name, seconds in contestants.items():
            if isinstance(seconds, str):
                lines.append(f"| {work} | {name} | {seconds} | |")
            else:
                median = statistics.median(seconds)
                lines.append(f"| {work} | {name} | {1e3 * median:.1f} | {median / ours:.2f} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Measure, print a Markdown table and write it with its numbers."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks data", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=3, default=(192, 192, 64), help="of the volume that is read and prepared")
    parser.add_argument("--patch", type=int, nargs=3, default=(40, 56, 40))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--samples", type=int, default=40, help="patches that a round augments")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "data")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    measured: dict[str, dict[str, list[float] | str]] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for part in ("large", "small"):
            (folder / part).mkdir()
        large = write_case(folder / "large", options.shape, SPACING)
        small = write_case(folder / "small", [size + 16 for size in options.patch], (1.0, 1.0, 1.0))
        shape = "x".join(map(str, options.shape))
        measured[f"read image and label, {shape}"] = measure(readers(large), options.rounds, 1)
        measured[f"read and prepare, {shape}"] = measure(preparers(large, make_plan(options.patch, TARGET)), options.rounds, 1)
        plan, patch = make_plan(options.patch, (1.0, 1.0, 1.0)), "x".join(map(str, options.patch))
        for interpolation, name in (("linear", ""), ("cubic", " with cubic splines")):
            contestants = augmenters(small, plan, folder / "cache", interpolation)
            measured[f"augment a patch{name}, {patch}"] = measure(contestants, options.rounds, options.samples)
    write_record(options.output, table(measured), vars(options) | {"output": None}, measured)
    return 0
