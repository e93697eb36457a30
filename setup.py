"""Compiles the kernels. Where that fails, for want of a compiler for instance, se-med installs and works without them."""

from setuptools import Extension, setup

HEADERS = ("excite", "exponential", "fold", "map", "passes", "vectors", "winograd")

# No -ffast-math: linking with it makes the whole process treat the smallest numbers as zero.
setup(
    ext_modules=[
        Extension(
            "se_med.fused._kernels",
            [
                "se_med/fused/norm.c",
                "se_med/fused/lines.c",
                "se_med/fused/cascade.c",
                "se_med/fused/loss.c",
                "se_med/fused/sums.c",
                "se_med/fused/affine.c",
                "se_med/fused/splines.c",
                "se_med/fused/convolution.c",
                "se_med/fused/winograd_wide.c",
                "se_med/fused/winograd_middle.c",
            ],
            depends=[f"se_med/fused/{name}.h" for name in HEADERS],
            extra_compile_args=["-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-fopenmp"],
            extra_link_args=["-fopenmp"],
            libraries=["m"],
            optional=True,
        )
    ]
)
