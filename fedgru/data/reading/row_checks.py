"""Fields of a check-in file from text to numbers: what makes a row bad, and what is said then."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.errors import DataError
from fedgru.data.ledger import Ledger
from fedgru.data.reading.timestamps import LAYOUTS, MAX_OFFSET_MIN, read_times
from fedgru.data.text_columns import is_empty, plain_numbers, trim

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LIMITS = {"latitude": 90, "longitude": 180}
_NUMBER = r"^[+-]?(\d{1,20}\.?\d*|\.\d+)([eE][+-]?\d{1,2})?$"


@dataclass(frozen=True)
class Parsed:
    """The number columns of some rows of a file, and which of the rows are good.

    Attributes:
        good: bool [num_rows]; what the other columns hold in bad rows means nothing.
        time_s: int64 [num_rows], Unix seconds, UTC.
        is_cut: bool [num_rows], whether a fraction of a second was cut off.
        offset_min: int64 [num_rows], minutes to add to UTC for local time.
        lat_deg: float64 [num_rows], NaN where missing.
        lon_deg: float64 [num_rows], NaN where missing.
        bad: `BadRows`, for `settle`.
    """

    good: np.ndarray
    time_s: np.ndarray
    is_cut: np.ndarray
    offset_min: np.ndarray
    lat_deg: np.ndarray
    lon_deg: np.ndarray
    bad: "BadRows"


def parse_rows(rows, fields, *, time_layout, offset_min, swap_hint):
    """Parse and check some rows; what is wrong with them is said by `settle`.

    Args:
        rows: `fedgru.data.reading.sources.Rows`.
        fields: dict from names in `fedgru.data.checkins.FIELDS`, and those of kept columns, to
            pyarrow string arrays [num_rows].
        time_layout: a key of `LAYOUTS`, or None if no time follows any.
        offset_min: minutes from UTC of every row's local clock; None if rows say their own.
        swap_hint: what to do if latitude and longitude are swapped.

    Returns:
        `Parsed`.
    """
    bad = BadRows(rows)
    _check_names(bad, fields)
    times = _check_times(bad, fields["time"], time_layout)
    time_s = times.time_s
    lat_deg, lon_deg = _check_coordinates(bad, fields, swap_hint)
    if "offset" in fields:
        offsets = _check_offsets(bad, fields["offset"])
        _check_exchanged(bad, fields, lat_deg, lon_deg, offsets, swap_hint)
    elif offset_min is not None:
        offsets = np.full(len(time_s), offset_min)
        time_s = np.where(times.has_zone, time_s, time_s - 60 * offset_min)
    else:
        offsets = times.zone_min
    good = bad.close()
    return Parsed(good, time_s, times.is_cut, offsets, lat_deg, lon_deg, bad)


class BadRows:
    """Collects the bad ones of some rows by reason; of several reasons the first one counts.

    Attributes:
        num_good, num_rows: int, of rows with the right number of fields; once it is closed.
        good: bool [num_rows]; until then.
        found: one per check, in the order of the checks: None, or (reason, numbers of its rows,
            what is wrong with the first of them).
        misfits, num_columns: of the rows.
    """

    def __init__(self, rows):
        self._row_nums = rows.row_nums
        self.good = np.ones(len(rows.row_nums), bool)
        self.found = []
        self.misfits, self.num_columns = rows.misfits, len(rows.columns)

    def flag(self, is_bad, reason, explain):
        """Mark rows as bad; `explain` makes the message for one index into the rows."""
        index = np.flatnonzero(is_bad & self.good)
        self.good[index] = False
        if len(index):
            self.found.append((reason, self._row_nums[index], explain(int(index[0]))))
        else:
            self.found.append(None)

    def close(self):
        """Return `good`, and keep no array of the size of the rows."""
        good, self.num_rows, self.num_good = self.good, len(self.good), int(self.good.sum())
        self.good = self._row_nums = None
        return good


def settle(file, parts, skip, delimiter, layout_hint):
    """Stop at the first bad row of a file, or give the ledger that counts them all.

    Args:
        file: what messages call the file.
        parts: list of `BadRows`, of the file's rows in order; all went through the same checks.
        skip: drop and count bad rows instead of stopping at the first.
        delimiter: the character between fields.
        layout_hint: what to do if every row has a wrong number of fields.

    Returns:
        `Ledger`: the bad rows, dropped, by reason.

    Raises:
        DataError: at the first bad row, or if no row is good.
    """
    found = [_wrong_number_of_fields(parts, delimiter, layout_hint)]
    for of_check in zip(*(part.found for part in parts), strict=True):
        some = [one for one in of_check if one is not None]
        if some:
            reason, _, message = some[0]
            found.append((reason, np.concatenate([row_nums for _, row_nums, _ in some]), message))
    found = [one for one in found if one is not None]
    ledger = Ledger()
    if not found:
        return ledger
    row_num, message = min((row_nums[0], message) for _, row_nums, message in found)
    total = sum(len(row_nums) for _, row_nums, _ in found)
    if not skip:
        total = "1 bad row" if total == 1 else f"{total:,} bad rows"
        raise DataError(
            f"{file}, row {row_num}: {message}\n"
            f"{total} in all; `skip_bad_rows` drops and counts bad rows."
        )
    if not any(part.num_good for part in parts):
        raise DataError(f"{file} has no good row among {total:,}. Row {row_num}: {message}")
    for reason, row_nums, _ in found:
        ledger = ledger.add("dropped", reason, row_nums)
    return ledger


def _wrong_number_of_fields(parts, delimiter, layout_hint):
    misfits = [misfit for part in parts for misfit in part.misfits]
    if not misfits:
        return None
    row_nums = np.array([row_num for row_num, _ in misfits])
    num_fields = misfits[0][1]
    message = (
        f"{num_fields} {'field' if num_fields == 1 else 'fields'}, expected "
        f"{parts[0].num_columns} separated by {DELIMITERS.get(delimiter, repr(delimiter))}."
    )
    has_others = any(part.num_rows for part in parts)
    return "wrong number of fields", row_nums, message if has_others else message + layout_hint


def _check_names(bad, fields):
    empty = {field: is_empty(texts) for field, texts in fields.items()}
    bad.flag(
        np.logical_and.reduce(list(empty.values())), "row is empty", lambda i: "the row is empty."
    )
    bad.flag(empty["user"], "user is empty", lambda i: "user is empty, expected a name or id.")
    bad.flag(empty["venue"], "venue is empty", lambda i: "venue is empty, expected a name or id.")


def _check_times(bad, texts, layout):
    times = read_times(texts, layout or "iso8601")
    expected = LAYOUTS[layout] if layout else " or ".join(LAYOUTS.values())
    bad.flag(
        ~times.ok,
        "time is not readable",
        lambda i: f"time is {_quote(texts[i])}, expected a date and time like {expected}.",
    )
    return times


def _check_coordinates(bad, fields, swap_hint):
    """Latitude and longitude in degrees, NaN where missing or bad."""
    if "latitude" not in fields:
        return np.full((2, len(bad.good)), np.nan)
    degrees = {field: _read_numbers(fields[field]) for field in _LIMITS}
    empty = {field: is_empty(fields[field]) for field in _LIMITS}

    def explain(i, field):
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

    def explain_lone(i):
        given, other = sorted(_LIMITS, key=lambda field: empty[field][i])
        return f"{given} is {fields[given][i]} but {other} is empty, expected both or neither."

    for field, limit in _LIMITS.items():
        bad.flag(
            ~empty[field] & ~(np.abs(degrees[field]) <= limit),
            f"{field} is not a number from {-limit} to {limit}",
            lambda i, field=field: explain(i, field),
        )
    bad.flag(
        empty["latitude"] ^ empty["longitude"], "one coordinate without the other", explain_lone
    )
    return degrees["latitude"], degrees["longitude"]


def _check_offsets(bad, texts):
    """Offsets from UTC in minutes, 0 where bad."""
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


def _check_exchanged(bad, fields, lat_deg, lon_deg, offsets, swap_hint):
    """Find coordinates in range that contradict the clock as they are and fit it when exchanged.

    The sun moves 1 degree in 4 minutes, and no clock in use is 5 h from it. An offset of 0 often
    stands for an unknown one, so it is no evidence.
    """

    def from_sun_min(degrees):
        return np.abs((offsets - 4 * degrees + 720) % 1440 - 720)

    bad.flag(
        (offsets != 0) & (from_sun_min(lon_deg) > 300) & (from_sun_min(lat_deg) < 180),
        "latitude and longitude are swapped",
        lambda i: (
            f"latitude {fields['latitude'][i]} and longitude {fields['longitude'][i]} contradict "
            f"the time-zone offset of {offsets[i]} minutes and would fit it the other way round. "
            f"If they are swapped, {swap_hint}."
        ),
    )


def _read_numbers(texts):
    """float64 [num_rows], NaN where the text is not a number."""
    trimmed = trim(texts)
    numbers = plain_numbers(trimmed, pa.float64(), longest=20)
    if numbers is None:
        numbers = pc.if_else(pc.match_substring_regex(trimmed, _NUMBER), trimmed, None)
        numbers = pc.utf8_ltrim(numbers, "+").cast(pa.float64())
    return numbers.to_numpy(zero_copy_only=False)


def _quote(text):
    """A value as messages show it."""
    text = str(text)
    return repr(text if len(text) <= 60 else text[:57] + "...")
