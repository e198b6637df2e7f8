"""What the server keeps of simulated time; `fedgru/training/simulated_time.py` runs it."""

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, replace
from typing import Any

from fedgru.core.types import Row, Weights

MS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class InFlight:
    """A client that has received weights and is not done.

    Attributes:
        client: index of the client.
        version: the round after which the weights that it received were made.
        draw: number of a round, from which its random numbers are drawn.
        end_ms: when it is done.
        why: the fault for which it sends nothing, or None.
    """

    client: int
    version: int
    draw: int
    end_ms: int
    why: str | None


@dataclass(frozen=True)
class Simulated:
    """Where a run with simulated time stands after a round.

    Times are whole milliseconds, so that sums of them are exact. Time 0 is midnight, UTC.

    Attributes:
        time_ms: the time now.
        down_bytes, up_bytes: what clients have received and sent so far, all together.
        in_flight: the clients that are training now, if rounds overlap; else None.
        staleness: if rounds overlap, mean of the last round's updates: how many versions older the
            weights were that they were made from; None before round 1.
        versions: round -> the weights after it, for each version of `in_flight`.
    """

    time_ms: int = 0
    down_bytes: int = 0
    up_bytes: int = 0
    in_flight: tuple[InFlight, ...] | None = None
    staleness: float | None = None
    versions: Mapping[int, Weights] = field(default_factory=dict)

    @property
    def hours(self) -> float:
        """The time now, in hours."""
        return self.time_ms / MS_PER_HOUR

    def row(self) -> Row:
        """Return what a row of metrics.csv has of it, {"train/name/average": value}."""
        row: Row = {
            "train/hours/simulated": self.hours,
            "train/down_bytes/simulated": self.down_bytes,
            "train/up_bytes/simulated": self.up_bytes,
        }
        return row if self.in_flight is None else row | {"train/staleness/mean": self.staleness}

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict that JSON can hold, without the weights of the versions."""
        found = asdict(replace(self, in_flight=None, versions={}))
        del found["versions"]
        if self.in_flight is not None:
            found["in_flight"] = [astuple(one) for one in self.in_flight]
        return found

    @classmethod
    def from_dict(cls, found: Mapping[str, Any]) -> "Simulated":
        """The inverse of `to_dict`."""
        in_flight = found["in_flight"]
        if in_flight is not None:
            in_flight = tuple(InFlight(*one) for one in in_flight)
        return cls(**{**found, "in_flight": in_flight})
