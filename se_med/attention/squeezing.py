"""The base class of the blocks that squeeze each channel to a number: from another map if need be, and without the padding."""

from __future__ import annotations

from torch import Tensor

from se_med.attention.gate import Gate


class SqueezingGate(Gate):
    """A block whose channel weights come from one number per channel.

    Two more inputs say what is squeezed. ``source``, ``(B, C, *spatial)``, is squeezed in place of ``x``, which is still what is
    multiplied: behind an instance norm, for instance, the map before the norm. ``mask``, ``(B or 1, 1, *spatial)``, is 0 at
    voxels that the squeeze leaves out, such as padding; they are multiplied like all others. Parts of a block that look at
    single voxels see ``x`` and all voxels.

    Without a mask padding is squeezed as well: zeros around an image pull its means towards zero, and the gates with them.

    Raises:
        ValueError: on a forward pass, a mask whose shape does not fit the map.
    """

    def weigh(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return what the block's formula multiplies ``x`` by, ``(B, C or 1, *spatial or ones)``."""
        raise NotImplementedError

    def gate(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return the factor on ``x``, the blend of ``identity_start`` included, ``(B, C or 1, *spatial or ones)``."""
        return self.blended(self.weigh(x, source, mask))

    def forward(self, x: Tensor, source: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Return ``x`` times its gate, ``(B, C, *spatial)``, in the number format of ``x``."""
        return x * self.gate(x, source, mask).to(x.dtype)
