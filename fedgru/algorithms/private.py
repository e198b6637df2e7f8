"""What the server keeps of differential privacy; `dp_fed_avg` computes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from fedgru.core.types import Row


@dataclass(frozen=True)
class Private:
    """Where a private run stands after a round.

    Attributes:
        epsilon: of all that clients have sent so far.
        clip: the largest norm of an update in the next round.
    """

    epsilon: float
    clip: float

    def row(self) -> Row:
        """Return what a row of metrics.csv has of it, {"train/name/average": value}."""
        return {"train/epsilon/dp": self.epsilon, "train/clip/dp": self.clip}

    def to_dict(self) -> dict[str, float]:
        """Return it as a dict that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: Mapping[str, float]) -> Private:
        """The inverse of `to_dict`."""
        return cls(**found)
