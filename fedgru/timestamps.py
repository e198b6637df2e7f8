"""Columns of written times to Unix seconds, in the three layouts that check-in files use."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MAX_OFFSET_MIN = 14 * 60
_MIN_YEAR, _MAX_YEAR = 1970, 2099
_YEAR_2100_S = 4102444800
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_WEEKDAYS = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"]
_CLOCK = r"(?P<hour>\d\d):(?P<minute>\d\d)"
_ZONE = r"(?P<zone>[+-])(?P<zone_hour>\d\d)"
_PATTERNS = {
    "tsmc2014": r"^(?P<weekday>\w{3}) (?P<month_name>\w{3}) (?P<day>\d\d) "
    rf"{_CLOCK}:(?P<second>\d\d) {_ZONE}(?P<zone_minute>\d\d) (?P<year>\d{{4}})$",
    "iso8601": rf"^(?P<year>\d{{4}})-(?P<month>\d\d)-(?P<day>\d\d)[Tt ]{_CLOCK}"
    r"(?::(?P<second>\d\d)(?:\.(?P<fraction>\d+))?)?"
    rf" ?(?:(?P<utc>[Zz])|{_ZONE}(?::?(?P<zone_minute>\d\d))?)?$",
    # Nine digits at least: a date like 20120403 is not a number of seconds.
    "unix": r"^(?P<seconds>\d{9,10})(?:\.(?P<fraction>\d+))?$",
}

LAYOUTS = {
    "tsmc2014": "'Tue Apr 03 18:00:09 +0000 2012'",
    "iso8601": "ISO 8601 ('2012-04-03T18:00:09Z')",
    "unix": "Unix seconds ('1333476009')",
}


@dataclass(frozen=True)
class Times:
    """A column of times, read.

    Attributes:
        ok: bool [num_rows], whether the text is a time; the other columns hold 0 where not.
        time_s: int64 [num_rows], Unix seconds, UTC; of a time without zone, seconds since
            1970-01-01 00:00 on whatever clock it was written by.
        zone_min: int64 [num_rows], minutes from UTC of the zone that the text names, 0 if none.
        has_zone: bool [num_rows], whether the text says its zone (Unix seconds are UTC).
        is_cut: bool [num_rows], whether a fraction of a second other than 0 was cut off.
    """

    ok: np.ndarray
    time_s: np.ndarray
    zone_min: np.ndarray
    has_zone: np.ndarray
    is_cut: np.ndarray


def guess_layout(texts):
    """The layout that most of the first 1,000 texts follow, or None if none of them follows any."""
    head = texts[:1000]
    num_read = {layout: int(read_times(head, layout).ok.sum()) for layout in LAYOUTS}
    best = max(num_read, key=num_read.get)
    return best if num_read[best] else None


def read_times(texts, layout):
    """Read a column of written times.

    A weekday that contradicts its date, a 30th of February and a year outside 1970 to 2099 are
    not times.

    Args:
        texts: pyarrow string array [num_rows], without missing values.
        layout: a key of `LAYOUTS`.

    >>> times = read_times(pa.array(["2012-04-03 14:00:09-04:00", "soon"]), "iso8601")
    >>> times.time_s.tolist(), times.zone_min.tolist(), times.ok.tolist()
    ([1333476009, 0], [-240, 0], [True, False])
    """
    found = pc.extract_regex(pc.utf8_trim_whitespace(texts), _PATTERNS[layout])
    parts = {field.name: found.field(i).fill_null("") for i, field in enumerate(found.type)}
    ok = _to_numpy(found.is_valid())
    nothing = np.zeros(len(texts), bool)
    is_cut = ok & (_number(parts["fraction"]) > 0) if "fraction" in parts else nothing
    if layout == "unix":
        time_s = _number(parts["seconds"])
        ok &= time_s < _YEAR_2100_S
        return Times(ok, np.where(ok, time_s, 0), np.zeros_like(time_s), ok, is_cut & ok)

    year, day, hour, minute, second = (
        _number(parts[part]) for part in ("year", "day", "hour", "minute", "second")
    )
    month = _number(parts["month"]) if "month" in parts else _position(parts["month_name"], _MONTHS)
    ok &= (year >= _MIN_YEAR) & (year <= _MAX_YEAR) & (month >= 1) & (month <= 12)
    month_start, month_end = _month_days(np.where(ok, 12 * (year - 1970) + month - 1, 0))
    day_num = month_start + day - 1  # days since 1970-01-01, a Thursday
    ok &= (day >= 1) & (day_num < month_end) & (hour < 24) & (minute < 60) & (second < 60)
    if "weekday" in parts:
        ok &= (day_num + 3) % 7 + 1 == _position(parts["weekday"], _WEEKDAYS)

    zone_min = 60 * _number(parts["zone_hour"]) + _number(parts["zone_minute"])
    ok &= (zone_min <= MAX_OFFSET_MIN) & (_number(parts["zone_minute"]) < 60)
    zone_min = np.where(_to_numpy(pc.equal(parts["zone"], "-")), -zone_min, zone_min)
    has_zone = _to_numpy(pc.not_equal(parts["zone"], ""))
    if "utc" in parts:
        has_zone |= _to_numpy(pc.not_equal(parts["utc"], ""))
    time_s = ((24 * day_num + hour) * 60 + minute - zone_min) * 60 + second
    return Times(ok, np.where(ok, time_s, 0), np.where(ok, zone_min, 0), has_zone & ok, is_cut & ok)


def _to_numpy(array):
    return array.to_numpy(zero_copy_only=False)


def _number(digits):
    """int64 [num_rows] of a column of digits; 0 where there are none."""
    short = pc.utf8_slice_codeunits(digits, 0, 18)  # a fraction may be longer than int64
    return _to_numpy(pc.if_else(pc.equal(short, ""), "0", short).cast(pa.int64()))


def _position(texts, names):
    """int64 [num_rows], place of each text in a list of names, from 1; 0 if it is not there."""
    index = pc.index_in(texts, value_set=pa.array(names)).fill_null(-1)
    return _to_numpy(index).astype(np.int64) + 1


def _month_days(months):
    """First day of each month and of the next, in days since 1970-01-01."""
    return tuple(
        (months + step).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        for step in (0, 1)
    )
