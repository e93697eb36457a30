"""Random transforms of the training patches: how often and how strong."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, model_validator

from se_med.config.base import Part
from se_med.config.data import Axis

Probability = Annotated[float, Field(ge=0, le=1)]


class _Range(Part):
    @model_validator(mode="after")
    def _ordered(self) -> Self:
        for key, value in self.__dict__.items():
            if isinstance(value, tuple) and len(value) == 2 and value[0] > value[1]:
                raise ValueError(f"{key}: {list(value)} must go from low to high")
        return self


class Flip(Part):
    """Mirroring, drawn for each axis on its own."""

    probability: Probability = Field(0.5, description="Probability of a flip along each axis.")
    axes: tuple[Axis, ...] | None = Field(
        None, description="Axes (RAS) that may be flipped; [] for none. Default: planned (none where labels have a side)."
    )


class Affine(_Range):
    """Rotation and scaling about the centre of the patch, resampled once."""

    probability: Probability = Field(0.9, description="Probability of a rotation with scaling.")
    rotation: NonNegativeFloat = Field(20.0, le=180, description="Largest rotation about each axis, in degrees.")
    scale: tuple[PositiveFloat, PositiveFloat] = Field((0.8, 1.2), description="Range of the isotropic scale factor.")
    stretch: tuple[PositiveFloat, PositiveFloat] = Field(
        (1.0, 1.0), description="Range of a further scale factor of each axis that is not three times as coarse as another."
    )
    shear: NonNegativeFloat = Field(0.0, lt=1, description="Largest shear of such axes along each other: tangent of its angle.")


class Elastic(_Range):
    """Smooth bending: cubic B-splines through displacements drawn at control points; resampled together with `affine`."""

    probability: Probability = Field(0.0, description="Probability of bending.")
    spacing: float = Field(12.0, ge=2, description="Distance between control points, in voxels.")
    displacement: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (0.0, 5.0),
        description="Range of the largest displacement of a control point along each axis, in voxels. Neighbours even each other "
        "out: in 3D anatomy moves by a fifth of it (root mean square). Folding is impossible up to a sixth of the spacing, and "
        "unlikely up to half of it.",
    )


class Noise(_Range):
    """Additive Gaussian noise."""

    probability: Probability = Field(0.15, description="Probability of noise.")
    std: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (0.0, 0.2), description="Range of the standard deviation (normalised units)."
    )


class Blur(_Range):
    """Gaussian blur."""

    probability: Probability = Field(0.1, description="Probability of blur.")
    sigma: tuple[NonNegativeFloat, NonNegativeFloat] = Field(
        (0.4, 0.9), description="Range of the standard deviation, in voxels."
    )


class Brightness(_Range):
    """Multiplication of all intensities."""

    probability: Probability = Field(0.15, description="Probability of a brightness change.")
    factor: tuple[PositiveFloat, PositiveFloat] = Field((0.8, 1.25), description="Range of the factor.")


class Contrast(_Range):
    """Stretching of the intensities about their mean."""

    probability: Probability = Field(0.15, description="Probability of a contrast change.")
    factor: tuple[PositiveFloat, PositiveFloat] = Field((0.75, 1.25), description="Range of the factor.")


class LowResolution(_Range):
    """Downsampling and upsampling again, as a coarser scan would look."""

    probability: Probability = Field(0.1, description="Probability of a simulated low resolution.")
    zoom: tuple[PositiveFloat, PositiveFloat] = Field((0.5, 1.0), description="Range of the resolution kept.")


class Gamma(_Range):
    """Power law on intensities scaled to 0..1."""

    probability: Probability = Field(0.15, description="Probability of a gamma change.")
    gamma: tuple[PositiveFloat, PositiveFloat] = Field((0.7, 1.5), description="Range of the exponent.")


class AugmentationConfig(Part):
    """Random transforms of the training patches, in the order in which they are applied."""

    flip: Flip = Flip()
    affine: Affine = Affine()
    elastic: Elastic = Elastic()
    interpolation: Literal["linear", "cubic"] = Field(
        "linear",
        description="How affine, elastic and test-time rotations resample images. Linear samples are smoother than the volumes "
        "that are predicted later; cubic splines keep most of the noise and detail.",
    )
    noise: Noise = Noise()
    blur: Blur = Blur()
    brightness: Brightness = Brightness()
    contrast: Contrast = Contrast()
    low_resolution: LowResolution = LowResolution()
    gamma: Gamma = Gamma()
