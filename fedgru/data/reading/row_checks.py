"""Fields of a check-in file from text to numbers: checks for bad rows, and their messages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.errors import DataError
from fedgru.core.types import AnyInts, Bools, Doubles, Ints
from fedgru.data.ledger import Ledger
from fedgru.data.reading.sources import Rows
from fedgru.data.reading.timestamps import LAYOUTS, MAX_OFFSET_MIN, Times, read_times
from fedgru.data.text_columns import is_empty, plain_numbers, trim

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LIMITS = {"latitude": 90, "longitude": 180}
_NUMBER = r"^[+-]?(\d{1,20}\.?\d*|\.\d+)([eE][+-]?\d{1,2})?$"


Fields: TypeAlias = Mapping[str, pa.StringArray]
Found: TypeAlias = tuple[str, AnyInts, str]  # reason, row numbers, message about the first row


@dataclass(frozen=True)
class Parsed:
    """The number columns of some rows of a file, and which of the rows are good.

    Attributes:
        good: bool [num_rows]; in bad rows the values of the other columns are meaningless.
        time_s: int64 [num_rows], Unix seconds, UTC.
        fraction_ns: int64 [num_rows], nanoseconds after `time_s`.
        has_zone: bool [num_rows], whether the time has a zone.
        offset_min: int64 [num_rows], minutes to add to UTC for local time.
        lat_deg: float64 [num_rows], NaN where missing.
        lon_deg: float64 [num_rows], NaN where missing.
        bad: `BadRows`, for `settle`.
    """

    good: Bools
    time_s: Ints
    fraction_ns: Ints
    has_zone: Bools
    offset_min: Ints
    lat_deg: Doubles
    lon_deg: Doubles
    bad: "BadRows"


def parse_rows(
    rows: Rows,
    fields: Fields,
    *,
    time_layout: str | None,
    offset_min: int | None,
    times_without_zone: str | None,
    swap_hint: str,
) -> Parsed:
    """Parse and check some rows; `settle` reports what is wrong with them.

    Args:
        rows: `fedgru.data.reading.sources.Rows`.
        fields: dict from names in `fedgru.data.checkins.FIELDS`, and those of kept columns, to
            pyarrow string arrays [num_rows].
        time_layout: a key of `LAYOUTS`, or None if no time fits any.
        offset_min: minutes from UTC of every row's local clock; None if each row has its own.
        times_without_zone: "local" or "utc"; None: local time where an offset is known, else UTC.
        swap_hint: advice if latitude and longitude are swapped.

    Returns:
        `Parsed`.
    """
    bad = BadRows(rows)
    _check_names(bad, fields)
    times = check_times(bad, fields["time"], time_layout)
    time_s = times.time_s
    lat_deg, lon_deg = check_coordinates(bad, fields, swap_hint)
    if "offset" in fields:
        offsets = _check_offsets(bad, fields["offset"])
        _check_exchanged(bad, fields, lat_deg, lon_deg, offsets, swap_hint)
    elif offset_min is not None:
        offsets = np.full(len(time_s), offset_min)
    else:
        offsets = times.zone_min
    if times_without_zone != "utc" and not times.has_zone.all():  # offsets are 0 where unknown
        time_s = np.where(times.has_zone, time_s, time_s - 60 * offsets)
    good = bad.close()
    return Parsed(good, time_s, times.fraction_ns, times.has_zone, offsets, lat_deg, lon_deg, bad)


class BadRows:
    """Collects the bad rows among some rows by reason; if a row has several, the first counts.

    Attributes:
        num_good, num_rows: int, of the rows with the right number of fields; after `close`.
        good: bool [num_rows]; before `close`.
        found: one per check, in the order of the checks: None, or (reason, numbers of its rows,
            message about the first of them).
        misfits, num_columns: as in the Rows.
    """

    num_good: int
    num_rows: int

    def __init__(self, rows: Rows) -> None:
        self._row_nums: Ints = rows.row_nums
        self.good: Bools = np.ones(len(rows.row_nums), bool)
        self.found: list[Found | None] = []
        self.misfits, self.num_columns = rows.misfits, len(rows.columns)

    def flag(self, is_bad: Bools, reason: str, explain: Callable[[int], str]) -> None:
        """Mark rows as bad; `explain` makes the message for one index into the rows."""
        index = np.flatnonzero(is_bad & self.good)
        self.good[index] = False
        if len(index):
            self.found.append((reason, self._row_nums[index], explain(int(index[0]))))
        else:
            self.found.append(None)

    def close(self) -> Bools:
        """Return `good`, and release the arrays of the size of the rows."""
        good, self.num_rows, self.num_good = self.good, len(self.good), int(self.good.sum())
        del self.good, self._row_nums
        return good


def settle(
    file: str, parts: Sequence[BadRows], skip: bool, delimiter: str, layout_hint: str
) -> Ledger:
    """Stop at the first bad row of a file, or return the ledger that counts all bad rows.

    Args:
        file: the file's name in messages.
        parts: list of `BadRows` of the file's rows in order, all with the same checks.
        skip: drop and count bad rows instead of stopping at the first.
        delimiter: the character between fields.
        layout_hint: advice if every row has a wrong number of fields.

    Returns:
        `Ledger`: the bad rows, dropped, by reason.

    Raises:
        DataError: at the first bad row, or if no row is good.
    """
    found: list[Found] = []
    for misfits in (_wrong_number_of_fields(parts, delimiter, layout_hint), _open_quotes(parts)):
        if misfits is not None:
            found.append(misfits)
    for of_check in zip(*(part.found for part in parts), strict=True):
        some = [one for one in of_check if one is not None]
        if some:
            reason, _, message = some[0]
            found.append((reason, np.concatenate([row_nums for _, row_nums, _ in some]), message))
    ledger = Ledger()
    if not found:
        return ledger
    row_num, message = min((row_nums[0], message) for _, row_nums, message in found)
    total = sum(len(row_nums) for _, row_nums, _ in found)
    if not skip:
        bad_rows = "1 bad row" if total == 1 else f"{total:,} bad rows"
        raise DataError(
            f"{file}, row {row_num}: {message}\n"
            f"{bad_rows} in all; `skip_bad_rows` drops and counts bad rows."
        )
    if not any(part.num_good for part in parts):
        raise DataError(f"{file} has no good row among {total:,}. Row {row_num}: {message}")
    for reason, row_nums, _ in found:
        ledger = ledger.add("dropped", reason, row_nums)
    return ledger


def _wrong_number_of_fields(
    parts: Sequence[BadRows], delimiter: str, layout_hint: str
) -> Found | None:
    misfits = [one for part in parts for one in part.misfits if not one.num_swallowed]
    if not misfits:
        return None
    row_nums = np.array([misfit.row_num for misfit in misfits])
    num_fields = misfits[0].num_fields
    message = (
        f"{num_fields} {'field' if num_fields == 1 else 'fields'}, expected "
        f"{parts[0].num_columns} separated by {DELIMITERS.get(delimiter, repr(delimiter))}."
    )
    has_others = any(part.num_rows > 0 for part in parts)
    return "wrong number of fields", row_nums, message if has_others else message + layout_hint


def _open_quotes(parts: Sequence[BadRows]) -> Found | None:
    """Return the rows in which a quote is left open, and those that they swallowed."""
    misfits = [one for part in parts for one in part.misfits if one.num_swallowed]
    if not misfits:
        return None
    row_nums = np.concatenate([one.row_num + np.arange(one.num_swallowed + 1) for one in misfits])
    first = misfits[0]
    others = "row" if first.num_swallowed == 1 else f"{first.num_swallowed:,} rows"
    message = (
        f"a quote is left open in this row: it swallows the {others} after it, to row "
        f"{first.row_num + first.num_swallowed}. Close the quote, or write a quote that is part "
        "of a name twice."
    )
    return "a quote left open, and the rows it swallowed", row_nums, message


def _check_names(bad: BadRows, fields: Fields) -> None:
    empty = {field: is_empty(texts) for field, texts in fields.items()}
    bad.flag(
        np.logical_and.reduce(list(empty.values())), "row is empty", lambda i: "the row is empty."
    )
    bad.flag(empty["user"], "user is empty", lambda i: "user is empty, expected a name or id.")
    bad.flag(empty["venue"], "venue is empty", lambda i: "venue is empty, expected a name or id.")


def check_times(bad: BadRows, texts: pa.StringArray, layout: str | None) -> Times:
    """Return the Times of a column; `bad` gets the rows without one."""
    times = read_times(texts, layout or "iso8601")
    expected = LAYOUTS[layout] if layout else " or ".join(LAYOUTS.values())
    bad.flag(
        ~times.ok,
        "time is not readable",
        lambda i: f"time is {_quote(texts[i])}, expected a date and time like {expected}.",
    )
    return times


def check_coordinates(bad: BadRows, fields: Fields, swap_hint: str) -> tuple[Doubles, Doubles]:
    """Return latitude and longitude in degrees, float64 [num_rows], NaN where missing or bad.

    Args:
        bad: BadRows, which get the rows whose coordinates are out of range, alone or no numbers.
        fields: as in `parse_rows`.
        swap_hint: advice if latitude and longitude are swapped.
    """
    if "latitude" not in fields:
        missing = np.full(len(bad.good), np.nan)
        return missing, missing
    degrees = {field: _read_numbers(fields[field]) for field in _LIMITS}
    empty = {field: is_empty(fields[field]) for field in _LIMITS}

    def explain(i: int, field: str) -> str:
        limit, text = _LIMITS[field], fields[field][i]
        if np.isnan(degrees[field][i]):
            return (
                f"{field} is {_quote(text)}, expected a number from {-limit} to {limit}, "
                "or nothing where it is missing."
            )
        message = f"{field} is {text}, expected {-limit} to {limit}."
        if abs(degrees["latitude"][i]) <= 180 and abs(degrees["longitude"][i]) <= 90:
            message += f" If latitude and longitude are swapped, {swap_hint}."
        return message

    def explain_lone(i: int) -> str:
        given, other = sorted(_LIMITS, key=lambda field: empty[field][i])
        return f"{given} is {fields[given][i]} but {other} is empty, expected both or neither."

    for field, limit in _LIMITS.items():
        bad.flag(
            ~empty[field] & ~(np.abs(degrees[field]) <= limit),
            f"{field} is not a number from {-limit} to {limit}",
            partial(explain, field=field),
        )
    bad.flag(
        empty["latitude"] ^ empty["longitude"], "one coordinate without the other", explain_lone
    )
    return degrees["latitude"], degrees["longitude"]


def _check_offsets(bad: BadRows, texts: pa.StringArray) -> Ints:
    """Return offsets from UTC in minutes, 0 where bad."""
    trimmed = trim(texts)
    offsets = plain_numbers(trimmed, pa.int64(), longest=6)
    if offsets is None or offsets.null_count:
        is_integer = pc.match_substring_regex(trimmed, r"^[+-]?\d{1,5}$")
        offsets = pc.utf8_ltrim(pc.if_else(is_integer, trimmed, "99999"), "+").cast(pa.int64())
    offsets = offsets.to_numpy()
    is_bad = np.abs(offsets) > MAX_OFFSET_MIN
    bad.flag(
        is_bad,
        "offset is not a whole number of minutes within 14 h",
        lambda i: (
            f"time-zone offset is {_quote(texts[i])}, expected whole minutes "
            f"from {-MAX_OFFSET_MIN} to {MAX_OFFSET_MIN}."
        ),
    )
    return np.where(is_bad, 0, offsets)


def _check_exchanged(
    bad: BadRows,
    fields: Fields,
    lat_deg: Doubles,
    lon_deg: Doubles,
    offsets: AnyInts,
    swap_hint: str,
) -> None:
    """Find coordinates that contradict the clock, but would fit it if they were exchanged.

    The sun moves 1 degree in 4 minutes, and no clock in use differs from it by 5 h. An offset of 0
    often means an unknown offset, so it is not used.
    """

    def from_sun_min(degrees: Doubles) -> Doubles:
        return np.abs((offsets - 4 * degrees + 720) % 1440 - 720)

    bad.flag(
        (offsets != 0) & (from_sun_min(lon_deg) > 300) & (from_sun_min(lat_deg) < 180),
        "latitude and longitude are swapped",
        lambda i: (
            f"latitude {fields['latitude'][i]} and longitude {fields['longitude'][i]} contradict "
            f"the time-zone offset of {offsets[i]} minutes but would fit it exchanged. "
            f"If they are swapped, {swap_hint}."
        ),
    )


def _read_numbers(texts: pa.StringArray) -> Doubles:
    """Return float64 [num_rows], NaN where the text is not a number."""
    trimmed = trim(texts)
    numbers = plain_numbers(trimmed, pa.float64(), longest=20)
    if numbers is None:
        numbers = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, None)
        numbers = pc.utf8_ltrim(numbers, "+").cast(pa.float64())
    return numbers.to_numpy(zero_copy_only=False)


def _quote(text: object) -> str:
    """Return a value as text for a message."""
    text = str(text)
    return repr(text if len(text) <= 60 else text[:57] + "...")
