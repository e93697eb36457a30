"""Plans how the intensities of each channel are normalised: by what is declared, else by whether they look like Hounsfield units.

CT values are a physical scale that all cases share, so they are clipped and scaled by the foreground of the data set (as nnU-Net
does: Isensee et al. 2021, Nature Methods 18, arXiv 1904.08128). All others are relative, and each volume is scaled by itself.
"""

from __future__ import annotations

import numpy as np

from se_med.config.experiment import Config
from se_med.data.case import Dataset
from se_med.data.fingerprint import Fingerprint
from se_med.data.layouts.description import channel_modality
from se_med.data.plan import Normalisation

AIR = (-3100.0, -800.0)
"""Where the lowest value of a CT lies: air has -1000, what lies outside of the scanner's circle down to -3024."""
TISSUE = (100.0, 40_000.0)
"""Where the highest value of a CT lies: soft tissue, bone, metal on an extended scale."""
MOST = 0.9
"""Share of the cases that must look like CT."""


def choose_normalisation(
    config: Config, dataset: Dataset, fingerprint: Fingerprint, reasons: dict[str, str]
) -> tuple[Normalisation, ...]:
    """Return the normalisation of each channel.

    Args:
        config: a modality of the user wins over everything.
        dataset: declared channels.
        fingerprint: intensities of the foreground, and the range of each case.
        reasons: told why.
    """
    entries, said = [], []
    for number, values in enumerate(fingerprint.foreground):
        kind, source = _modality(config, dataset, fingerprint, number)
        if kind == "ct" and values.std > 0:
            entries.append(Normalisation(method="ct", clip=(values.low, values.high), mean=values.mean, std=values.std))
            said.append(f"CT{source} is clipped to the foreground's 0.5 to 99.5 percentiles and scaled alike in all cases")
        else:
            entries.append(Normalisation(method="zscore"))
            shown = kind.upper() if kind in ("mr", "ct") else kind
            said.append(f"{shown} intensities{source} are relative: every volume by its own mean and deviation")
    reasons["normalisation"] = "; ".join(dict.fromkeys(said))
    return tuple(entries)


def looks_like_ct(fingerprint: Fingerprint, channel: int) -> bool:
    """Tell whether nearly all cases have the lowest and highest values that CT in Hounsfield units has."""
    ranges = [case.ranges[channel] for case in fingerprint.cases if case.ranges]
    alike = [AIR[0] <= low <= AIR[1] and TISSUE[0] <= high <= TISSUE[1] for low, high in ranges]
    return bool(alike) and float(np.mean(alike)) >= MOST


def _modality(config: Config, dataset: Dataset, fingerprint: Fingerprint, channel: int) -> tuple[str, str]:
    """Return the modality of a channel and, where it was guessed, from what."""
    if config.data.modality != "auto":
        return config.data.modality, ""
    if dataset.channels:
        return channel_modality(dataset.channels[channel]), ""
    if dataset.modality != "other":
        return dataset.modality, ""
    if looks_like_ct(fingerprint, channel):
        low, high = np.median([case.ranges[channel] for case in fingerprint.cases if case.ranges], axis=0)
        return "ct", f" (values from {low:g} to {high:g} are taken for Hounsfield units; set data.modality if they are not)"
    return "other", ""
