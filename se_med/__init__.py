"""se-med: squeeze-and-excitation U-Nets for medical image segmentation, compared fairly.

Importing this package imports nothing heavy; each room imports torch or MONAI when it needs them.
"""

__version__ = "0.1.0"
