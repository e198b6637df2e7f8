"""What the server keeps of simulated time; `fedgru/training/simulated_time.py` runs it."""

from dataclasses import dataclass

from fedgru.core.types import Row

MS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class Simulated:
    """Where a run with simulated time stands after a round.

    Times are whole milliseconds, so that sums of them are exact. Time 0 is midnight, UTC.

    Attributes:
        time_ms: the time now.
        down_bytes, up_bytes: what clients have received and sent so far, all together.
    """

    time_ms: int = 0
    down_bytes: int = 0
    up_bytes: int = 0

    @property
    def hours(self) -> float:
        """The time now, in hours."""
        return self.time_ms / MS_PER_HOUR

    def row(self) -> Row:
        """Return what a row of metrics.csv has of it, {"train/name/simulated": value}."""
        return {
            "train/hours/simulated": self.hours,
            "train/down_bytes/simulated": self.down_bytes,
            "train/up_bytes/simulated": self.up_bytes,
        }
