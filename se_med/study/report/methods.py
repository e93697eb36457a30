"""A paragraph for the methods section of a paper, with the works that it cites."""

from __future__ import annotations

from se_med.study.report.facts import Facts
from se_med.study.statistics import StudyStatistics
from se_med.study.tables import ArmRow, RunRow

REFERENCES = {
    "ronneberger": "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
    "MICCAI 2015. arXiv:1505.04597.",
    "hu": "Hu J, Shen L, Sun G. Squeeze-and-excitation networks. CVPR 2018. arXiv:1709.01507.",
    "roy": "Roy AG, Navab N, Wachinger C. Recalibrating fully convolutional networks with spatial and channel "
    "'squeeze & excitation' blocks. IEEE Trans Med Imaging 2019. arXiv:1808.08127.",
    "monai": "Cardoso MJ et al. MONAI: an open-source framework for deep learning in healthcare. 2022. arXiv:2211.02701.",
    "nsd": "Nikolov S et al. Deep learning to achieve clinically applicable segmentation of head and neck anatomy for "
    "radiotherapy. 2018. arXiv:1809.04430.",
    "obuchowski": "Obuchowski NA, Rockette HE. Hypothesis testing of diagnostic accuracy for multiple readers and multiple "
    "tests. Commun Stat Simul Comput 1995;24:285-308.",
    "satterthwaite": "Satterthwaite FE. An approximate distribution of estimates of variance components. Biometrics "
    "1946;2:110-114.",
    "schuirmann": "Schuirmann DJ. A comparison of the two one-sided tests procedure and the power approach for assessing the "
    "equivalence of average bioavailability. J Pharmacokinet Biopharm 1987;15:657-680.",
    "holm": "Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70.",
}
"""Works that a paragraph may cite."""


_BY = " \N{MULTIPLICATION SIGN} "


def methods(
    statistics: StudyStatistics, facts: Facts, arms: tuple[ArmRow, ...], runs: tuple[RunRow, ...]
) -> tuple[list[str], list[str]]:
    """Write the paragraph.

    Returns:
        Its sentences as paragraphs, with numbers in brackets, and the works in the order of these numbers.
    """
    cited: list[str] = []

    def cite(*names: str) -> str:
        for name in names:
            if name not in cited:
                cited.append(name)
        return "[" + ", ".join(str(cited.index(name) + 1) for name in names) + "]"

    attention = any("attention" in key for arm in arms for key in arm.differences)
    networks = f"U-Nets {cite('ronneberger')}"  # first, since works are numbered as they are cited
    networks += f" with and without attention {cite('hu', 'roy')}" if attention else ""
    paragraphs = [
        f"{networks} were compared with se-med {facts.software.get('se-med', '')}, which rests on "
        f"MONAI {facts.software.get('monai', '')} {cite('monai')} and PyTorch {facts.software.get('torch', '')}. {_data(facts)} "
        f"{_training(facts, arms, runs)} No checkpoint was chosen by its scores: those reported are of the network "
        "after the last step.",
        f"Segmentations of held-out cases were scored on their own voxel grids {_metrics(facts, cite('nsd'))}. {_policy()} The "
        f"primary endpoint, declared beforehand, was the mean {statistics.metric.title} over the structures of a case; a "
        f"difference of {statistics.metric.text(statistics.margin)} was declared to matter.",
        f"Differences from {statistics.reference} were paired by fold, seed and case. Their mean and its 95 % interval come "
        "from a variance components model with random runs (fold and seed) and random cases, as in studies of several readers "
        f"and cases {cite('obuchowski')}, with Satterthwaite's degrees of freedom {cite('satterthwaite')}; tests over cases "
        "alone ignore that cases share the luck of their run. Equivalence within the margin was tested by two one-sided tests "
        f"{cite('schuirmann')}, difference by a two-sided one, both at 5 % and corrected over {_count(statistics)} by Holm's "
        f"method {cite('holm')}; with fewer than four pairs of runs nothing was concluded. {_noise(statistics)}",
    ]
    return paragraphs, [REFERENCES[name] for name in cited]


def _data(facts: Facts) -> str:
    config, plan = facts.config, facts.plan
    data = f"The data set ({facts.data_cases} cases, SHA-256 {facts.data_digest[:12]}) "
    if config is None or plan is None:
        return data + "was prepared by se-med."
    spacing = _BY.join(f"{length:g}" for length in plan.spacing)
    how = "resampled to" if not plan.flat else "kept at"
    normalised = " and ".join(
        sorted({{"zscore": "z-scores", "ct": "clipped and scaled intensities"}[one.method] for one in plan.normalisation})
    )
    return (
        f"{data}was split into {config.data.folds} folds, {how} {spacing} {'mm' if not plan.flat else 'pixels'}, and normalised "
        f"to {normalised}."
    )


def _training(facts: Facts, arms: tuple[ArmRow, ...], runs: tuple[RunRow, ...]) -> str:
    finished = [run for run in runs if run.status == "finished"]
    folds, seeds = len({run.fold for run in finished}), len({run.seed for run in finished})
    steps = sorted({arm.steps for arm in arms})
    text = (
        f"Each of {len(arms)} arms was trained on {folds} fold{'s' * (folds != 1)} with {seeds} seed{'s' * (seeds != 1)}, for "
        f"{' or '.join(map(str, steps))} steps"
    )
    if facts.plan is not None and facts.config is not None:
        patch = _BY.join(map(str, facts.plan.patch))
        text += f" of {facts.plan.batch_size} patches of {patch} voxels"
    matched = [run.matched for run in finished if run.matched is not None]
    if matched and all(matched):
        text += "; runs of one fold and seed saw bitwise equal batches and started from bitwise equal values of shared weights"
    return text + "."


def _metrics(facts: Facts, nsd: str) -> str:
    tolerance = "" if facts.config is None else f" at a tolerance of {facts.config.evaluation.tolerance:g} mm"
    return f"by Dice, 95th percentile Hausdorff distance (HD95), normalised surface distance{tolerance} {nsd} and volume error"


def _policy() -> str:
    return "A missed or spurious structure has Dice 0 and, as HD95, the diagonal of the image."


def _count(statistics: StudyStatistics) -> str:
    count = len(statistics.verdicts)
    return f"{count} comparison{'s' * (count != 1)}"


def _noise(statistics: StudyStatistics) -> str:
    noise, metric = statistics.noise, statistics.metric
    if noise.seed_sd is None or noise.floor is None:
        return "With one seed per fold the noise of seeds was not measured."
    return (
        f"Between seeds, runs of {statistics.reference} had a standard deviation of {metric.text(noise.seed_sd)}, by which, in "
        f"nineteen of twenty studies of this many runs, unmatched arms differ by less than {metric.text(noise.floor)} with "
        "nothing to be found."
    )
