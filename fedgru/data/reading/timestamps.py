"""Columns of written times to Unix seconds, in the three layouts of check-in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.types import AnyInts, Bools, Ints
from fedgru.data.text_columns import fixed_width, lengths, trim

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

_TSMC2014_WIDTH = len("Tue Apr 03 18:00:09 +0000 2012")
_TSMC2014_DIGITS = [8, 9, 11, 12, 14, 15, 17, 18, 21, 22, 23, 24, 26, 27, 28, 29]
_TSMC2014_FIXED = {**dict.fromkeys((3, 7, 10, 19, 25), b" "), 13: b":", 16: b":", 20: b"+-"}
_TSMC2014_NAMES = (0, _WEEKDAYS), (4, _MONTHS)

_ISO8601_WIDTH = len("2012-04-03T18:00:09Z")
_ISO8601_DIGITS = [0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18]
_ISO8601_FIXED = {4: b"-", 7: b"-", 10: b"Tt ", 13: b":", 16: b":", 19: b"Zz"}

LAYOUTS = {
    "tsmc2014": "'Tue Apr 03 18:00:09 +0000 2012'",
    "iso8601": "ISO 8601 ('2012-04-03T18:00:09Z')",
    "unix": "Unix seconds ('1333476009')",
}


@dataclass(frozen=True)
class Times:
    """A column of times, read.

    Attributes:
        ok: bool [num_rows], whether the text is a time; the other columns are 0 where it is not.
        time_s: int64 [num_rows], Unix seconds, UTC; of a time without zone, seconds since
            1970-01-01 00:00 on the clock of the text.
        zone_min: int64 [num_rows], minutes from UTC of the zone in the text, 0 if there is none.
        has_zone: bool [num_rows], whether the text has a zone (Unix seconds are UTC).
        fraction_ns: int64 [num_rows], nanoseconds after `time_s`; further digits are cut off.
    """

    ok: Bools
    time_s: Ints
    zone_min: Ints
    has_zone: Bools
    fraction_ns: Ints


def guess_layout(texts: pa.StringArray) -> str | None:
    """Return the layout of most of the first 1,000 texts, or None if no text fits a layout."""
    head = texts[:1000]
    num_read = {layout: int(read_times(head, layout).ok.sum()) for layout in LAYOUTS}
    best = max(num_read, key=num_read.__getitem__)
    return best if num_read[best] else None


def read_times(texts: pa.StringArray, layout: str) -> Times:
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
    texts = trim(texts)
    width, read_fixed = _FIXED.get(layout, (0, None))
    if read_fixed is not None and (digits := fixed_width(texts, width)) is not None:
        times = read_fixed(digits)
        odd = np.flatnonzero(~times.ok)
        if len(odd) and len(odd) < len(texts):  # read only the unusual texts by the pattern
            _put(times, odd, read_times(texts.take(pa.array(odd)), layout))
            return times
        if not len(odd):
            return times
    found = pc.extract_regex(texts, _PATTERNS[layout])
    parts = {field.name: found.field(i).fill_null("") for i, field in enumerate(found.type)}
    ok = _to_numpy(found.is_valid())
    fraction_ns = np.zeros(len(texts), np.int64)
    if "fraction" in parts and lengths(parts["fraction"]).any():
        nine_digits = pc.utf8_rpad(pc.utf8_slice_codeunits(parts["fraction"], 0, 9), 9, "0")
        fraction_ns = _number(nine_digits)
    if layout == "unix":
        time_s = _number(parts["seconds"])
        ok &= time_s < _YEAR_2100_S
        return Times(
            ok, np.where(ok, time_s, 0), np.zeros_like(time_s), ok, np.where(ok, fraction_ns, 0)
        )

    year, day, hour, minute, second = (
        _number(parts[part]) for part in ("year", "day", "hour", "minute", "second")
    )
    month = _number(parts["month"]) if "month" in parts else _position(parts["month_name"], _MONTHS)
    zone_min = 60 * _number(parts["zone_hour"]) + _number(parts["zone_minute"])
    ok &= _number(parts["zone_minute"]) < 60
    zone_min = np.where(_to_numpy(pc.equal(parts["zone"], "-")), -zone_min, zone_min)
    weekday = _position(parts["weekday"], _WEEKDAYS) if "weekday" in parts else None
    has_zone = _to_numpy(pc.not_equal(parts["zone"], ""))
    if "utc" in parts:
        has_zone |= _to_numpy(pc.not_equal(parts["utc"], ""))
    written = _Written(year, month, day, hour, minute, second, zone_min, weekday)
    return _to_times(ok, written, has_zone, fraction_ns)


@dataclass(frozen=True)
class _Written:
    """The numbers in a column of written times, int64 [num_rows] each.

    `weekday` is 1 to 7, or None if the layout has none.
    """

    year: Ints
    month: Ints
    day: Ints
    hour: Ints
    minute: Ints
    second: Ints
    zone_min: Ints
    weekday: Ints | None


def _to_times(ok: Bools, w: _Written, has_zone: Bools, fraction_ns: Ints) -> Times:
    """Return Times from the numbers in them; `ok` where the text fits the layout."""
    ok = ok & (w.year >= _MIN_YEAR) & (w.year <= _MAX_YEAR) & (w.month >= 1) & (w.month <= 12)
    month_start, month_end = _month_days(np.where(ok, 12 * (w.year - 1970) + w.month - 1, 0))
    day_num = month_start + w.day - 1  # days since 1970-01-01, a Thursday
    ok &= (w.day >= 1) & (day_num < month_end)
    ok &= (w.hour < 24) & (w.minute < 60) & (w.second < 60)
    if w.weekday is not None:
        ok &= (day_num + 3) % 7 + 1 == w.weekday
    zone_min = w.zone_min
    ok &= np.abs(zone_min) <= MAX_OFFSET_MIN
    time_s = ((24 * day_num + w.hour) * 60 + w.minute - zone_min) * 60 + w.second
    time_s, zone_min, fraction_ns = (np.where(ok, v, 0) for v in (time_s, zone_min, fraction_ns))
    return Times(ok, time_s, zone_min, has_zone & ok, fraction_ns)


def _read_tsmc2014(text: npt.NDArray[np.uint8]) -> Times:
    """Return the Times of uint8 [num_rows, 30] such as `Tue Apr 03 18:00:09 +0000 2012`.

    The result is that of the pattern, but it makes no text for each part of each row.
    """
    digit = text - np.uint8(ord("0"))  # other characters wrap to 10 or more
    number = partial(_decimal, digit)
    ok = np.asarray((digit[:, _TSMC2014_DIGITS] < 10).all(axis=1))
    for column, characters in _TSMC2014_FIXED.items():
        ok &= np.isin(text[:, column], list(characters))
    weekday, month = (_place(text[:, at : at + 3], names) for at, names in _TSMC2014_NAMES)
    zone_minute = number(23, 24)
    zone_min = 60 * number(21, 22) + zone_minute
    written = _Written(
        year=np.where(ok, number(26, 27, 28, 29), 0),
        month=month,
        day=number(8, 9),
        hour=number(11, 12),
        minute=number(14, 15),
        second=number(17, 18),
        zone_min=np.where(text[:, 20] == ord("-"), -zone_min, zone_min),
        weekday=weekday,
    )
    return _to_times(ok & (zone_minute < 60), written, ok, np.zeros(len(text), np.int64))


def _read_iso8601(text: npt.NDArray[np.uint8]) -> Times:
    """Return the Times of uint8 [num_rows, 20] such as `2012-04-03T18:00:09Z`.

    The result is that of the pattern.
    """
    digit = text - np.uint8(ord("0"))  # other characters wrap to 10 or more
    number = partial(_decimal, digit)
    ok = np.asarray((digit[:, _ISO8601_DIGITS] < 10).all(axis=1))
    for column, characters in _ISO8601_FIXED.items():
        ok &= np.isin(text[:, column], list(characters))
    written = _Written(
        year=np.where(ok, number(0, 1, 2, 3), 0),
        month=number(5, 6),
        day=number(8, 9),
        hour=number(11, 12),
        minute=number(14, 15),
        second=number(17, 18),
        zone_min=np.zeros(len(text), np.int64),
        weekday=None,
    )
    return _to_times(ok, written, ok, np.zeros(len(text), np.int64))


def _decimal(digit: npt.NDArray[np.uint8], *columns: int) -> Ints:
    """Return int64 [num_rows], the number that some columns of digits write."""
    value = np.zeros(len(digit), np.int64)
    for column in columns:
        value = 10 * value + digit[:, column]
    return value


_FIXED = {
    "tsmc2014": (_TSMC2014_WIDTH, _read_tsmc2014),
    "iso8601": (_ISO8601_WIDTH, _read_iso8601),
}


def _place(text: npt.NDArray[np.uint8], names: Sequence[str]) -> Ints:
    """Return int64 [num_rows], place of uint8 [num_rows, 3] in a list of names, from 1; else 0."""
    place = np.zeros(len(text), np.int64)
    joined = (text[:, 0].astype(np.int32) << 16) | (text[:, 1].astype(np.int32) << 8) | text[:, 2]
    for i, name in enumerate(names, 1):
        place[joined == int.from_bytes(name.encode(), "big")] = i
    return place


def _put(times: Times, rows: AnyInts, found: Times) -> None:
    """Write the Times of some rows into `times`."""
    for name, values in vars(found).items():
        getattr(times, name)[rows] = values


def _to_numpy(array: pa.Array) -> npt.NDArray[Any]:
    return array.to_numpy(zero_copy_only=False)


def _number(digits: pa.StringArray) -> Ints:
    """Return int64 [num_rows] of a column of at most 18 digits; 0 for an empty text."""
    return _to_numpy(pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64()))


def _position(texts: pa.StringArray, names: Sequence[str]) -> Ints:
    """Return int64 [num_rows], place of each text in a list of names, from 1; else 0."""
    index = pc.index_in(texts, value_set=pa.array(names)).fill_null(-1)
    return _to_numpy(index).astype(np.int64) + 1


def _month_days(months: Ints) -> tuple[Ints, Ints]:
    """Return the first day of each month and of the next month, in days since 1970-01-01."""
    first, next_first = (
        (months + step).astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        for step in (0, 1)
    )
    return first, next_first
