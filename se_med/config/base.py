"""What every part of the configuration has in common."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator


class Part(BaseModel):
    """A frozen part of the configuration in which unknown keys and silent conversions are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    exclusive: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of keys of which one at most may be set. Where files and command line are merged, the one set later stays."""

    @classmethod
    def expand(cls, value: Any) -> Any:
        """Write out the shorthand forms of this part, if it has any."""
        return value

    @model_validator(mode="after")
    def _exclusive_keys(self) -> Self:
        for group in self.exclusive:
            given = [key for key in group if getattr(self, key) is not None]
            if len(given) > 1:
                raise ValueError(f"{given[-1]}: {' and '.join(given)} are both given; keep one")
        return self
