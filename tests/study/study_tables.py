"""Tables of studies that never ran: scores drawn from the model, or computed from label maps that were spoilt on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import ndimage

from se_med.evaluation.metrics import score_case
from se_med.study.tables import ArmRow, CaseRow, RunRow, Tables

STRUCTURES = ("ball", "box")


def row(arm="plain", fold=0, seed=0, case="a", structure="ball", *, dice=0.9, status="present", digest="d", **scores):
    """One row; an absent structure has no scores."""
    values = {"dice": dice, "hd95": 1.0, "nsd": 0.8, "volume_error_ml": 0.1} | scores
    if status == "absent":
        values = {"dice": None, "hd95": None, "nsd": None, "volume_error_ml": 0.0}
    return CaseRow(
        arm=arm,
        fold=fold,
        seed=seed,
        case=case,
        structure=structure,
        reference_digest=digest,
        status=status,
        prediction_ml=1.1,
        reference_ml=1.0,
        **values,
    )


def make_tables(cases: Sequence[CaseRow], reference="plain", **run_changes) -> Tables:
    """The tables around the rows of cases: a finished, matched run per arm, fold and seed."""
    names = list(dict.fromkeys((reference, *(entry.arm for entry in cases))))
    arms = tuple(
        ArmRow(
            name,
            name == reference,
            differences={} if name == reference else {"attention.decoder": [None, name]},
            parameters=100_000 + 2_000 * number,
            macs=10**9 + 10**7 * number,
            kept_mb=120.0 + number,
            steps=40,
        )
        for number, name in enumerate(names)
    )
    runs = tuple(
        RunRow(
            arm,
            fold,
            seed,
            key=f"{arm}-{fold}-{seed}",
            folder=f"../runs/{arm}-{fold}-{seed}",
            status="finished",
            steps=40,
            seconds=60.0,
            seconds_per_step=0.2 + 0.01 * names.index(arm),
            seconds_per_case=1.1 + 0.1 * names.index(arm),
            parameters=100_000 + 2_000 * names.index(arm),
            macs=10**9,
            kept_mb=120.0,
            peak_memory_mb=900.0 + 20 * names.index(arm),
            stream_digest="s",
            start_digest="t",
            matched=True,
            **run_changes,
        )
        for arm, fold, seed in dict.fromkeys((entry.arm, entry.fold, entry.seed) for entry in cases)
    )
    return Tables(arms, runs, tuple(cases))


def drawn_cases(
    effects: Mapping[str, float], folds=3, seeds=3, cases=20, *, run_sd=0.002, case_sd=0.008, rest_sd=0.004, seed=0
) -> list[CaseRow]:
    """Rows of two structures whose Dice follows the model; the mean difference of each arm is its effect."""
    generator = np.random.default_rng(seed)
    rows = []
    for fold in range(folds):
        level = generator.normal(0.87, 0.03, cases)
        for arm, effect in effects.items():
            own = generator.normal(0, case_sd, cases) if effect or arm != "plain" else np.zeros(cases)
            for number in range(seeds):
                luck = generator.normal(0, run_sd)
                rest = generator.normal(0, rest_sd, (len(STRUCTURES), cases))
                for position, structure in enumerate(STRUCTURES):
                    for case in range(cases):
                        dice = min(1.0, level[case] + effect + own[case] + luck + rest[position, case])
                        rows.append(
                            row(arm, fold, number, f"case_{fold}{case:02d}", structure, dice=dice, hd95=20 * (1 - dice), nsd=dice)
                        )
    return rows


def spoilt_cases(strength: Mapping[str, float], folds=2, seeds=2, cases=6, *, seed=0) -> list[CaseRow]:
    """Rows scored from label maps: each prediction lacks that share of the voxels on the surface that erosion takes away."""
    rows = []
    for fold in range(folds):
        for case in range(cases):
            shape = np.random.default_rng([seed, fold, case])
            truth = _truth(shape)
            for arm, share in strength.items():
                for number in range(seeds):
                    # The same seed spoils all arms alike, as matched runs share their luck.
                    luck = np.random.default_rng([seed, 7, fold, number]).normal(0, 0.01)
                    predicted = _eroded(truth, max(0.0, share + luck), np.random.default_rng([seed, fold, case, number]))
                    scores = score_case(f"c{fold}{case}", predicted, truth, (1, 1, 1), {"ball": 1, "box": 2}, 1.0, surfaces=False)
                    rows += [
                        row(
                            arm,
                            fold,
                            number,
                            score.case,
                            score.structure,
                            status=score.status,
                            dice=score.dice,
                            hd95=score.hd95,
                            nsd=score.nsd,
                            volume_error_ml=score.volume_error_ml,
                        )
                        for score in scores
                    ]
    return rows


def _truth(generator: np.random.Generator) -> np.ndarray:
    grid = np.stack(np.meshgrid(*[np.arange(24)] * 3, indexing="ij"), -1)
    label = np.zeros((24, 24, 24), np.uint8)
    label[((grid - 7 - generator.uniform(-1, 1, 3)) ** 2).sum(-1) < generator.uniform(20, 30)] = 1
    corner = generator.integers(13, 15, 3)
    label[tuple(slice(start, start + 8) for start in corner)] = 2
    return label


def _eroded(truth: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Take away a random share of the voxels that erosion would."""
    predicted = truth.copy()
    for value in (1, 2):
        mask = truth == value
        rim = mask & ~ndimage.binary_erosion(mask)
        predicted[rim & (generator.random(truth.shape) < share)] = 0
    return predicted
