"""How alike a client's check-ins are to earlier ones: what the features of candidates weigh by.

Public names: CheckInFacts, what similarities are computed from; Similarities; Buffers; shifted.

Arrays of pairs of check-ins are [columns, rows]: a row is a check-in from which is predicted, a
column an earlier one. Products that begin alike share their beginning, and arrays are used again
from block to block: fresh memory takes a core longer than a product.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints
from fedgru.data.distances import KM_PER_DEG
from fedgru.task.candidate_features import CLOCK
from fedgru.task.priors import History, Moments

HOUR_S, DAY_S, MONTH_S = 3600.0, 86400.0, 30 * 86400.0
FORGETTING = 0.43  # per month
FAR_KM = 50.0

# Factors are multiplied in this order, in which many products begin alike. The first of a product
# is 0 where a column is not seen from a row.
ORDER = (
    *("one", "fade", "half_3", "half_15", "half_60"),
    *("yesterday", "week_ago", "today", "last_10", "last_3"),
    *("asked_yesterday", "asked_week_ago", "asked_today", "asked_last_hours"),
    *("asked_weekend", "asked_hour", "asked_sharp_hour", "asked_sharpest_hour", "asked_weekday"),
    *("weekend", "hour", "sharp_hour", "weekday", "soon", "within_2_hours", "within_8_hours"),
    *("venue", "venue_before", "category", "category_before", "category_before_that"),
    *("place_in_day", "gap", "near", "around"),
    *("asked_place_in_day", "asked_gap"),
)
AGO_H = {  # before the asked moment: least and most hours
    "asked_yesterday": (21, 27),
    "asked_week_ago": (165, 171),
    "asked_last_hours": (0, 4),
}
SHARPNESS = {"hour": 4, "sharp_hour": 12, "sharpest_hour": 40}


@dataclass(frozen=True)
class AskedFacts:
    """What is known of the check-in after each: its moment, all arrays [n].

    Attributes:
        codes: {name: int32}, what is compared for equality, between these moments.
        day: int32, the local day, compared with those of check-ins.
        time_s, cos, sin, clock: as in CheckInFacts.
        log_gap: float32, of the hours from the check-in to this moment.
    """

    codes: dict[str, Int32s]
    day: Int32s
    time_s: Ints
    cos: Floats
    sin: Floats
    log_gap: Floats
    clock: Floats

    @classmethod
    def of(cls, history: History) -> "AskedFacts":
        """Return the AskedFacts of a History of n check-ins."""
        asked = history.asked
        day, place = history.local_time_s // 86400, _place_in_day(history.local_time_s // 86400)
        asked_day = asked.local_time_s // 86400
        turn = 2 * np.pi * asked.local_hour / 24
        codes = {
            "asked_weekday": asked.weekday,
            "asked_weekend": asked.weekend,
            # how many check-ins there were before on the day of this moment
            "asked_place_in_day": np.where(asked_day == day, place + 1, 0),
        }
        return cls(
            codes={name: np.asarray(values, np.int32) for name, values in codes.items()},
            day=asked_day.astype(np.int32),
            time_s=asked.time_s,
            cos=np.cos(turn).astype(np.float32),
            sin=np.sin(turn).astype(np.float32),
            log_gap=history.log_asked_gap.astype(np.float32),
            clock=_clock(asked),
        )


def _clock(moments: Moments) -> Floats:
    """Return float32 [n, len(CLOCK)]."""
    turn, week = 2 * np.pi * moments.local_hour / 24, 2 * np.pi * moments.weekday / 7
    clock = [np.sin(turn), np.cos(turn), np.sin(2 * turn), np.cos(2 * turn)]
    clock += [moments.weekend.astype(float), np.sin(week), np.cos(week)]
    assert len(clock) == len(CLOCK)
    return np.stack(clock, axis=1).astype(np.float32)


@dataclass(frozen=True)
class CheckInFacts:
    """A client's check-ins as similarities are computed from, all arrays [n].

    A difference of two check-ins does not depend on how many others there are.

    Attributes:
        classes: int32, target classes, -1 unknown.
        codes: {name: int32}, what is compared for equality; missing ones, -1, equal none.
        time_s: int64, Unix seconds.
        hour, cos, sin: float32, the local hour, and its turn.
        north_km, east_km: float64, the latter at the equator; 0 where missing.
        narrowing: float32, of a degree of longitude.
        located: bool, whether there are coordinates.
        log_gap: float32, of the hours since the check-in before.
        clock: float32 [n, len(CLOCK)].
        asked: AskedFacts, where the moment of the next check-in is known; else None.
    """

    classes: Int32s
    codes: dict[str, Int32s]
    time_s: Ints
    hour: Floats
    cos: Floats
    sin: Floats
    north_km: Doubles
    east_km: Doubles
    narrowing: Floats
    located: Bools
    log_gap: Floats
    clock: Floats
    asked: AskedFacts | None = None

    @classmethod
    def of(cls, history: History, asked_at: bool = False) -> "CheckInFacts":
        """Return the CheckInFacts of a History of n check-ins.

        Args:
            history: History.
            asked_at: whether the moment of the next check-in is known.
        """
        day = history.local_time_s // 86400
        gap_h = np.diff(history.time_s, prepend=history.time_s[:1]) / HOUR_S
        turn = 2 * np.pi * history.local_hour / 24
        lat_deg, lon_deg = history.lat_deg, history.lon_deg
        located = np.isfinite(lat_deg) & np.isfinite(lon_deg)
        lat_deg, lon_deg = (np.where(located, v, 0.0) for v in (lat_deg, lon_deg))
        codes = {
            "category": history.categories,
            "venue": history.venues,
            "category_before": shifted(history.categories, 1),
            "venue_before": shifted(history.venues, 1),
            "category_before_that": shifted(history.categories, 2),
            "weekday": history.moments.weekday,
            "weekend": history.weekend,
            "place_in_day": _place_in_day(day),
            "day": day,
        }
        as_float = {
            "hour": history.local_hour,
            "cos": np.cos(turn),
            "sin": np.sin(turn),
            "narrowing": np.cos(np.radians(lat_deg)),
            "log_gap": np.log1p(np.maximum(gap_h, 0)),
        }
        return cls(
            classes=history.classes,
            codes={name: np.asarray(values, np.int32) for name, values in codes.items()},
            time_s=history.time_s,
            north_km=KM_PER_DEG * lat_deg,
            east_km=KM_PER_DEG * lon_deg,
            located=located,
            clock=_clock(history.moments),
            asked=AskedFacts.of(history) if asked_at else None,
            **{name: values.astype(np.float32) for name, values in as_float.items()},
        )

    def context(self, rows: Ints) -> list[Floats | Doubles]:
        """Return the context of some rows but the log of their number, a list of [rows]."""
        asked, gap = self.asked, self.log_gap[rows]
        if asked is None:
            return [*self.clock[rows].T, gap, _few(self.codes["place_in_day"][rows])]
        place = _few(asked.codes["asked_place_in_day"][rows])
        return [*asked.clock[rows].T, gap, asked.log_gap[rows], place]


def _few(places: Int32s) -> Doubles:
    """Return places in the day as a number of the context."""
    found: Doubles = np.minimum(places, 6) / 3
    return found


def shifted(values: AnyInts, by: int) -> AnyInts:
    """Return the values of the check-ins `by` before; -1 where there is none."""
    return np.concatenate([np.full(min(by, len(values)), -1), values[: max(len(values) - by, 0)]])


def _place_in_day(day: Ints) -> Ints:
    """Return int64 [n], how many check-ins there were before on the same day."""
    begins = np.flatnonzero(np.diff(day, prepend=day[:1] - 1))
    lengths = np.diff(np.append(begins, len(day)))
    return np.arange(len(day)) - np.repeat(begins, lengths)


class Buffers:
    """Arrays that are used again under the same name, so that they are not allocated anew."""

    def __init__(self) -> None:
        self._flat: dict[str, Any] = {}

    def get(self, name: str, shape: tuple[int, int], dtype: Any = np.float32) -> Any:
        """Return an array of any content; an earlier one of this name must not be read any more."""
        size = shape[0] * shape[1]
        flat = self._flat.get(name)
        if flat is None or len(flat) < size:
            flat = self._flat[name] = np.empty(size, dtype)
        return flat[:size].reshape(shape)


class Similarities:
    """How alike rows are to earlier columns, each computed when it is asked for, and kept.

    Args:
        facts: CheckInFacts.
        rows: int64 [num_rows], the check-ins from which is predicted, contiguous.
        columns: int64 [num_columns], earlier check-ins, up to the last row, contiguous.
        window: how many check-ins are seen from a row, itself included.
        buffers: Buffers that no other Similarities is still read from.
    """

    def __init__(
        self, facts: CheckInFacts, rows: Ints, columns: Ints, window: int, buffers: Buffers
    ) -> None:
        self.rows, self.columns = rows, columns
        self._facts, self._buffers = facts, buffers
        self._shape = len(columns), len(rows)
        # later than the first row, or too old for the last one
        parts = slice(int(rows[0] - columns[0]) + 1, None), slice(0, len(rows) - 1)
        ages = [rows - columns[part, None] for part in parts]
        self._unseen = [
            (part, (age < 0) | (age >= window)) for part, age in zip(parts, ages, strict=True)
        ]
        self._found: dict[str, Floats] = {}

    def products(
        self, weights: Mapping[str, tuple[str, ...]], sees_itself: bool
    ) -> Iterator[tuple[int, Floats]]:
        """Yield each weight's place and product, float32 [columns, rows], valid until the next.

        Those that begin alike come one after the other, and share the beginning.
        """
        ordered = [sorted(factors, key=ORDER.index) for factors in weights.values()]
        before: list[str] = []
        products: list[Floats] = []  # of the first factor, the first two, ...
        for place in sorted(range(len(ordered)), key=lambda p: [*map(ORDER.index, ordered[p])]):
            factors = ordered[place]
            same = 0
            while same < min(len(before), len(factors)) and before[same] == factors[same]:
                same += 1
            del products[same:]
            for depth, factor in enumerate(factors[same:], same):
                if depth:
                    out = self.new(f"product {depth}")
                    products.append(np.multiply(products[-1], self[factor], out=out))
                elif sees_itself:
                    products.append(self[factor])
                else:
                    first = self.new("product 0")
                    first[...] = self[factor]
                    first[self.rows - self.columns[0], np.arange(len(self.rows))] = 0
                    products.append(first)
            before = factors
            yield place, products[-1]

    def __getitem__(self, name: str) -> Floats:
        if name not in self._found:
            self._found[name] = self._compute(name, self.new(name))
        return self._found[name]

    def unseen(self, array: Floats, value: float = 0.0) -> Floats:
        """Set an array [columns, rows] to a value where a column is not seen; return it."""
        for part, is_unseen in self._unseen:
            np.copyto(array[part], np.float32(value), where=is_unseen)
        return array

    def _compute(self, name: str, out: Floats) -> Floats:
        facts, buffers = self._facts, self._buffers
        match name:
            case "one":
                out.fill(1)
                return self.unseen(out)
            case "fade":
                return self._decayed(np.float32(-FORGETTING / MONTH_S), out)
            case "half_3" | "half_15" | "half_60":
                rate = np.log(0.5) / DAY_S / int(name.removeprefix("half_"))
                return self._decayed(np.float32(rate), out)
            case "seconds":
                now, then = facts.time_s[self.rows], facts.time_s[self.columns, None]
                np.subtract(now, then, out=out, casting="unsafe")
                return np.maximum(out, 0, out=out)  # the future is not seen, but may overflow
            case "weekend" | "asked_weekend":
                out = self._equal(name, out)
                out *= np.float32(0.75)
                out += np.float32(0.25)
                return out
            case "cos" | "asked_cos":  # of the difference of the hours, minus 1
                turn = facts if name == "cos" else self._asked
                self._outer(np.multiply, turn.cos, out)
                out += self._outer(np.multiply, turn.sin, self.new("other"))
                out -= 1
                return out
            case "hour" | "sharp_hour":
                np.multiply(self["cos"], np.float32(SHARPNESS[name]), out=out)
                return np.exp(out, out=out)
            case "asked_hour" | "asked_sharp_hour" | "asked_sharpest_hour":
                sharpness = SHARPNESS[name.removeprefix("asked_")]
                np.multiply(self["asked_cos"], np.float32(sharpness), out=out)
                return np.exp(out, out=out)
            case "gap" | "asked_gap":
                log_gap = facts.log_gap if name == "gap" else self._asked.log_gap
                self._outer(np.subtract, log_gap, out)
                out *= out
                out *= -2
                return np.exp(out, out=out)
            case "soon":
                np.multiply(self["hours_ahead"], np.float32(-0.25), out=out)
                return np.exp(out, out=out)
            case "within_2_hours" | "within_8_hours":
                return self._where(np.less, self["hours_ahead"], int(name.split("_")[1]), out)
            case "hours_ahead":
                self._outer(np.subtract, facts.hour, out)
                np.negative(out, out=out)
                wraps = self._where(np.less, out, 0, self.new("other"))
                wraps *= 24
                out += wraps
                return out
            case "yesterday" | "week_ago":
                until = DAY_S * (1 if name == "yesterday" else 7)
                found = np.less_equal(
                    self["seconds"], until, out=buffers.get("bool", self._shape, bool)
                )
                found &= np.greater_equal(
                    self["seconds"],
                    until - 6 * HOUR_S,
                    out=buffers.get("other bool", self._shape, bool),
                )
                out[...] = found
                return self.unseen(out)
            case "asked_yesterday" | "asked_week_ago" | "asked_last_hours":
                return self.unseen(self._ago(*AGO_H[name], out))
            case "today":
                return self.unseen(self._equal("day", out))
            case "asked_today":
                asked, days = self._asked.day[self.rows], facts.codes["day"]
                return self.unseen(self._where(np.equal, asked, days[self.columns, None], out))
            case "last_10" | "last_3":
                limit = int(name.removeprefix("last_"))
                out.fill(0)
                recent = slice(max(0, self._shape[0] - len(self.rows) - limit), None)
                out[recent] = self.rows - self.columns[recent, None] < limit
                return self.unseen(out)
            case "near" | "around":
                rate = -0.5 / (0.09 if name == "near" else 1)
                np.multiply(self["squared_km"], np.float32(rate), out=out)
                return np.exp(out, out=out)
            case "squared_km":
                return self._squared_km(out)
        return self._equal(name, out)

    @property
    def _asked(self) -> AskedFacts:
        assert self._facts.asked is not None, "similarities of asked moments need these"
        return self._facts.asked

    def _ago(self, least_h: float, most_h: float, out: Floats) -> Floats:
        """Write 1 where a column lies some hours before the asked moment of a row, else 0."""
        ago_s = self._asked.time_s[self.rows] - self._facts.time_s[self.columns, None]
        out[...] = (ago_s >= least_h * HOUR_S) & (ago_s <= most_h * HOUR_S)
        return out

    def _decayed(self, rate: Any, out: Floats) -> Floats:
        np.multiply(self["seconds"], rate, out=out)
        return self.unseen(np.exp(out, out=out))

    def _squared_km(self, out: Floats) -> Floats:
        facts, rows, columns = self._facts, self.rows, self.columns
        north, east = out, self.new("other")
        # metres need all digits of the positions
        for to, km in ((north, facts.north_km), (east, facts.east_km)):
            np.subtract(km[rows], km[columns, None], out=to, casting="unsafe")
        east *= facts.narrowing[rows]
        east *= east
        north *= north
        north += east
        np.minimum(north, np.float32(FAR_KM**2), out=north)
        if not facts.located.all():
            apart = 1 - self["venue"]
            apart *= np.float32(FAR_KM**2)
            missing = ~(facts.located[rows] & facts.located[columns, None])
            np.copyto(north, apart, where=missing)
        return north

    def new(self, name: str) -> Floats:
        """Return an array [columns, rows] of any content, see `Buffers.get`."""
        found: Floats = self._buffers.get(name, self._shape)
        return found

    def _outer(self, operation: Any, values: Floats, out: Floats) -> Floats:
        found: Floats = operation(values[self.rows], values[self.columns, None], out=out)
        return found

    def _where(self, compare: Any, one: Any, other: Any, out: Floats) -> Floats:
        """Write 1 where a comparison holds, else 0."""
        out[...] = compare(one, other, out=self._buffers.get("bool", self._shape, bool))
        return out

    def _equal(self, name: str, out: Floats) -> Floats:
        codes = (self._asked if name.startswith("asked_") else self._facts).codes[name]
        now = codes[self.rows]
        now = np.where(now < 0, -2, now).astype(np.int32)
        return self._where(np.equal, now, codes[self.columns, None], out)
