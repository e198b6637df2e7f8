"""Rows of a file to check-ins: checked, sorted by time and coded, a part at a time."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import DataError
from fedgru.core.types import AnyInts, Bools, Ints
from fedgru.data.checkins import CheckIns, Coded, encode, in_order
from fedgru.data.ledger import MAX_EXAMPLES, Ledger, Line
from fedgru.data.reading.base import Reading
from fedgru.data.reading.growing_columns import NumberColumn, TextColumn
from fedgru.data.reading.places import Places, join_places
from fedgru.data.reading.row_checks import BadRows, parse_rows, settle
from fedgru.data.reading.sources import Rows, Source

Picked: TypeAlias = tuple[dict[str, Any], dict[str, Any]]  # fields, kept columns

_TEXT_FIELDS = ("user", "venue", "category", "raw_category")
_NOTHING = {"nan", "null", "none", "na", "n/a", "#n/a", "nil", "undefined", "\\n", "<na>"}
NO_ZONE = "time has no zone, read as"  # begins a reason in the ledger
_OWN = "own:"  # prefix of a kept column's name, so that it differs from all fields
MIN_FALLS = 3  # of time from row to row; with fewer, a file with the newest row first is a guess
MAX_COMPARED = 16  # rows of one second, pair by pair


@contextmanager
def _returning_memory() -> Iterator[None]:
    """Let Arrow use the system's memory, which is released after use; Arrow's pools keep it."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


@dataclass(frozen=True)
class _Part:
    """The good rows of a part of a file, in the order of the file; columns as in CheckIns.

    Attributes:
        fields: the fields out of FIELDS that the file has.
        texts: {field, or "own:" and a name: pyarrow dictionary array}.
        numbers: {name: array}: row_nums, time_s, offset_min; lat_deg, lon_deg if the file has them.
        fractions: (places of the rows whose time has a fraction, these in nanoseconds).
        without_zone: row numbers of the first rows whose time has no zone, and how many there are.
        bad: BadRows.
        num_rows: good and bad.
    """

    fields: tuple[str, ...]
    texts: dict[str, pa.DictionaryArray]
    numbers: dict[str, npt.NDArray[Any]]
    fractions: tuple[Ints, Ints]
    without_zone: tuple[list[int], int]
    bad: BadRows
    num_rows: int


class _Columns:
    """The good rows of a file, part by part; columns as in CheckIns.

    Attributes:
        read: the parts, without their columns.
        num_good: rows so far.
    """

    def __init__(self) -> None:
        self.read: list[_Part] = []
        self.num_good = 0
        self._texts: dict[str, TextColumn] = {}
        self._numbers: dict[str, NumberColumn] = {}
        self._cut_at, self._fraction_ns = NumberColumn(np.int64), NumberColumn(np.int64)

    def add(self, part: _Part) -> None:
        self._cut_at.add(self.num_good + part.fractions[0])
        self._fraction_ns.add(part.fractions[1])
        self.num_good += len(part.numbers["time_s"])
        for name, texts in part.texts.items():
            self._texts.setdefault(name, TextColumn()).add(texts)
        for name, values in part.numbers.items():
            self._numbers.setdefault(name, NumberColumn(values.dtype)).add(values)
        part.texts.clear()
        part.numbers.clear()
        self.read.append(part)

    def join(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Coded]]:
        """Return the columns of numbers, with "fraction_ns" if there are any, and of texts."""
        numbers = {name: self._numbers.pop(name).join() for name in list(self._numbers)}
        texts = {name: Coded(*self._texts.pop(name).join()) for name in list(self._texts)}
        if len(cut_at := self._cut_at.join()):
            numbers["fraction_ns"] = np.zeros(self.num_good, np.int64)
            numbers["fraction_ns"][cut_at] = self._fraction_ns.join()
        return numbers, texts


def read_rows(
    source: Source,
    parts: Iterable[Rows],
    pick: Callable[[list[Any]], Picked],
    *,
    delimiter: str,
    time_layout: str | None,
    skip_bad_rows: bool,
    settings: dict[str, Any],
    offset_min: int | None = None,
    times_without_zone: str | None = None,
    swap_hint: str = "",
    layout_hint: str = "",
    places: Places | None = None,
    ledger: Ledger = Ledger(),  # noqa: B008 (frozen)
) -> Reading:
    """Parse and check rows, sort the good ones by time, and code their texts.

    Args:
        source: `fedgru.data.reading.sources.Source`.
        parts: `fedgru.data.reading.sources.Rows`, part after part of the file.
        pick: called with the columns of a part; returns ({field: column}, {kept name: column}),
            with fields of `fedgru.data.checkins.FIELDS`, user, venue and time among them.
        delimiter: the character between fields.
        time_layout: a key of `fedgru.data.reading.timestamps.LAYOUTS`, or None if no time fits any.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.
        settings: the reader's settings, for the passport.
        offset_min: minutes from UTC of every row's local clock; None if each row has its own.
        times_without_zone: "local" or "utc", the clock of times without a zone; None: local time
            where an offset is known, else UTC, unless other rows have a zone.
        swap_hint: advice if latitude and longitude are swapped.
        layout_hint: advice if every row has a wrong number of fields.
        places: coordinates and categories by venue, if they have a file of their own.
        ledger: what happened to the file before.

    Returns:
        `Reading`.

    Raises:
        DataError: at the first bad row, if no row is good, or if some times have a zone, others
            have none, and nothing says which clock these are of.
    """
    for_parsing = {"time_layout": time_layout, "offset_min": offset_min, "swap_hint": swap_hint}
    for_parsing["times_without_zone"] = times_without_zone
    found = _Columns()
    threads = usable_cpus()
    with _returning_memory(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Part]] = deque()
        for rows in parts:
            waiting.append(pool.submit(_read_part, rows, pick, for_parsing))
            if len(waiting) > threads:  # hold only the text that the threads work on
                found.add(waiting.popleft().result())
        while waiting:
            found.add(waiting.popleft().result())
    bad = [part.bad for part in found.read]
    ledger += settle(source.file, bad, skip_bad_rows, delimiter, layout_hint)
    num_rows, fields = sum(part.num_rows for part in found.read), found.read[0].fields
    clock = _clock_without_zone(fields, offset_min, times_without_zone)
    ledger = _note_without_zone(ledger, source.file, found, clock, times_without_zone)
    numbers, texts = found.join()
    if places is not None:
        ledger = join_places(places, ledger, numbers, texts, source.file)
    for name in ("lat_deg", "lon_deg"):
        if name not in numbers:
            numbers[name] = np.full(len(numbers["time_s"]), np.nan)
    ledger = _put_in_order(ledger, numbers, texts)

    texts = {name: in_order(texts.pop(name)) for name in list(texts)}
    row_nums, fraction_ns = numbers.pop("row_nums"), numbers.pop("fraction_ns", None)
    nothing = Coded(np.full(len(row_nums), -1, np.int32), ())
    kept = {name.removeprefix(_OWN): texts[name] for name in texts if name.startswith(_OWN)}
    check_ins = CheckIns(
        user=texts["user"],
        venue=texts["venue"],
        category=texts.get("category", texts.get("raw_category", nothing)),
        raw_category=texts.get("raw_category", texts.get("category", nothing)),
        **numbers,
        own=kept,
    )
    if fraction_ns is not None:
        ledger = ledger.add("repaired", "fraction of a second cut off", row_nums[fraction_ns > 0])
    ledger = _note_missing(ledger, fields, check_ins, row_nums)
    ledger = _note_odd(ledger, check_ins, row_nums)
    repeats = _find_repeats(check_ins, fraction_ns)
    ledger = ledger.add("kept", "row repeats another one", row_nums[repeats])
    return Reading(check_ins, ledger, source, num_rows, time_layout, delimiter, settings)


def _clock_without_zone(
    fields: Sequence[str], offset_min: int | None, times_without_zone: str | None
) -> str:
    """Return how a time without a zone is read, for the ledger."""
    if times_without_zone == "utc" or ("offset" not in fields and offset_min is None):
        return "UTC"
    return f"local time by {'the offset column' if 'offset' in fields else 'the given offset'}"


def _note_without_zone(
    ledger: Ledger, file: str, found: _Columns, clock: str, times_without_zone: str | None
) -> Ledger:
    """Return the ledger with the times without a zone; refuse them if the clock is a guess."""
    number = sum(part.without_zone[1] for part in found.read)
    if not number:
        return ledger
    examples = [row for part in found.read for row in part.without_zone[0]][:MAX_EXAMPLES]
    if number < found.num_good and clock == "UTC" and times_without_zone is None:
        have = "1 time has no zone" if number == 1 else f"{number:,} times have no zone"
        raise DataError(
            f"{file}, row {examples[0]}: {have}, but {found.num_good - number:,} have one. Give "
            "`times_without_zone` utc, or an offset from UTC if they are local time."
        )
    line = Line("missing", f"{NO_ZONE} {clock}", number, tuple(examples))
    return ledger + Ledger((line,))


def _read_part(
    rows: Rows, pick: Callable[[list[Any]], Picked], for_parsing: Mapping[str, Any]
) -> _Part:
    """Parse and check some rows, and code the texts of the good ones."""
    fields, own = pick(rows.columns)
    parsed = parse_rows(rows, fields | own, **for_parsing)
    keep = slice(None) if parsed.good.all() else np.flatnonzero(parsed.good)

    def code(texts: pa.StringArray) -> pa.DictionaryArray:
        return encode(texts if isinstance(keep, slice) else texts.take(pa.array(keep)))

    texts = {field: code(fields[field]) for field in _TEXT_FIELDS if field in fields}
    texts |= {f"{_OWN}{name}": code(column) for name, column in own.items()}
    numbers: dict[str, npt.NDArray[Any]] = {
        "row_nums": rows.row_nums[keep].astype(np.uint32),  # MAX_TEXT_BYTES hold no more rows
        "time_s": parsed.time_s[keep],
        "offset_min": parsed.offset_min[keep].astype(np.int32),
    }
    if "latitude" in fields:
        numbers |= {"lat_deg": parsed.lat_deg[keep], "lon_deg": parsed.lon_deg[keep]}
    fraction_ns = parsed.fraction_ns[keep]
    fractions = np.flatnonzero(fraction_ns), fraction_ns[fraction_ns > 0]
    without = np.flatnonzero(parsed.good & ~parsed.has_zone)
    without_zone = rows.row_nums[without[:MAX_EXAMPLES]].tolist(), len(without)
    return _Part(tuple(fields), texts, numbers, fractions, without_zone, parsed.bad, rows.num_rows)


def _put_in_order(
    ledger: Ledger, numbers: dict[str, npt.NDArray[Any]], texts: dict[str, Coded]
) -> Ledger:
    """Put columns in order of time, in place; fractions of a second count.

    Rows of one moment keep their order. A file with the newest row first is read from its end.
    Return the ledger with the rows that come after a later row of the same user.
    """

    def rearrange(order: slice | Ints) -> None:
        for name in numbers:
            numbers[name] = numbers[name][order]
        for name in texts:
            texts[name] = Coded(texts[name].codes[order], texts[name].values)

    def moments() -> Ints:
        if "fraction_ns" not in numbers:
            return numbers["time_s"]
        return 10**9 * numbers["time_s"] + numbers["fraction_ns"]

    moment = moments()
    if (moment[1:] >= moment[:-1]).all():
        return ledger
    is_late, is_reversed = find_late(texts["user"].codes, moment)
    if is_reversed:
        ledger = ledger.add("repaired", "newest row first, read from the end", numbers["row_nums"])
        rearrange(slice(None, None, -1))
        moment = moments()
        is_late, _ = find_late(texts["user"].codes, moment)
    late = numbers["row_nums"][is_late]
    ledger = ledger.add("repaired", "row out of its user's time order, sorted", late)
    rearrange(np.argsort(moment, kind="stable"))
    return ledger


def find_late(user: AnyInts, moment: Ints) -> tuple[Bools, bool]:
    """Return the rows that come after a later row of their user, and whether all is reversed.

    Args:
        user: int [num_rows], codes.
        moment: int64 [num_rows], times in any unit.

    Returns:
        bool [num_rows]; and whether time falls from row to row of a user, at least three times,
        and more than twice as often as it rises.

    >>> find_late(np.array([0, 1, 0, 0]), np.array([5, 3, 7, 6]))
    (array([False, False, False,  True]), False)
    >>> find_late(np.array([0, 0, 1, 1, 0]), np.array([9, 8, 7, 6, 5]))[1]
    True
    """
    by_user = np.argsort(user, kind="stable")
    user, ordered = user[by_user], moment[by_user]
    same_user = user[1:] == user[:-1]
    num_falls, num_rises = (
        int(np.count_nonzero(same_user & change))
        for change in (ordered[1:] < ordered[:-1], ordered[1:] > ordered[:-1])
    )
    is_reversed = bool(num_falls >= max(MIN_FALLS, 2 * num_rises + 1))
    # the running maximum within each user: seconds or ranks below 2^33, users above them
    if ordered.max() >= 1 << 33:
        ordered = np.searchsorted(np.unique(ordered), ordered)
    key = (user.astype(np.int64) << 33) | ordered
    is_late = np.zeros(len(user), bool)
    is_late[by_user] = key < np.maximum.accumulate(key)
    return is_late, is_reversed


def _note_missing(
    ledger: Ledger, fields: Sequence[str], check_ins: CheckIns, row_nums: AnyInts
) -> Ledger:
    if "raw_category" in fields:
        ledger = ledger.add(
            "missing", "category id is empty", row_nums[check_ins.raw_category.codes < 0]
        )
    if "category" in fields:
        ledger = ledger.add(
            "missing", "category name is empty", row_nums[check_ins.category.codes < 0]
        )
    if "latitude" in fields:
        ledger = ledger.add(
            "missing", "coordinates are empty", row_nums[np.isnan(check_ins.lat_deg)]
        )
    for name, coded in check_ins.own.items():
        ledger = ledger.add("missing", f"{name} is empty", row_nums[coded.codes < 0])
    return ledger


def _note_odd(ledger: Ledger, check_ins: CheckIns, row_nums: AnyInts) -> Ledger:
    """Return the ledger with what is often a missing value in disguise."""
    is_origin = (check_ins.lat_deg == 0) & (check_ins.lon_deg == 0)
    ledger = ledger.add("kept", "coordinates are 0, 0: often a missing value", row_nums[is_origin])
    for field in ("user", "venue", "category"):
        coded: Coded = getattr(check_ins, field)
        odd = [code for code, text in enumerate(coded.values) if stands_for_nothing(text)]
        if odd:
            names = ", ".join(coded.values[code] for code in odd[:MAX_EXAMPLES])
            rows = row_nums[np.isin(coded.codes, odd)]
            ledger = ledger.add("kept", f"{field} is {names}: often a missing value", rows)
    return ledger


def stands_for_nothing(text: str) -> bool:
    """Return whether a name is a common word for a missing value, or only zeros.

    >>> [stands_for_nothing(text) for text in ("NULL", "nan", "00000000", "0", "Nana", "N/A")]
    [True, True, True, False, False, True]
    """
    word = text.strip().lower()
    return word in _NOTHING or (len(word) >= 8 and not word.strip("0"))


def _find_repeats(check_ins: CheckIns, fraction_ns: Ints | None) -> Ints:
    """Return the indices of rows that equal an earlier row in every column.

    `fraction_ns`: int64 [num_rows], what was cut off from `time_s`; None if nothing was.
    """
    user, venue, time_s = check_ins.user.codes, check_ins.venue.codes, check_ins.time_s
    columns: tuple[npt.NDArray[Any], ...] = (
        user,
        venue,
        time_s,
        check_ins.category.codes,
        check_ins.raw_category.codes,
        check_ins.offset_min,
        np.nan_to_num(check_ins.lat_deg, nan=999),
        np.nan_to_num(check_ins.lon_deg, nan=999),
        *(coded.codes for coded in check_ins.own.values()),
        *(() if fraction_ns is None else (fraction_ns,)),
    )
    seen, repeats = set(), []
    for i in find_alike(user, venue, time_s):
        row = tuple(column[i] for column in columns)
        if row in seen:
            repeats.append(i)
        seen.add(row)
    return np.array(repeats, np.int64)


def find_alike(user: AnyInts, venue: AnyInts, time_s: Ints) -> Ints:
    """Return ascending indices of rows with the user, venue and time of another row.

    Rows are in order of time. Each row is compared with the other rows of its second, usually few.
    If a second has many rows, they are sorted.
    """
    rows, alike = np.flatnonzero(time_s[1:] == time_s[:-1]), []
    for distance in range(1, MAX_COMPARED):
        if not len(rows):
            break
        same = (user[rows] == user[rows + distance]) & (venue[rows] == venue[rows + distance])
        alike += [rows[same], rows[same] + distance]
        rows = rows[rows + distance + 1 < len(time_s)]
        rows = rows[time_s[rows] == time_s[rows + distance + 1]]
    if len(rows):
        crowded = np.flatnonzero(np.isin(time_s, np.unique(time_s[rows])))
        order = crowded[np.lexsort((venue[crowded], user[crowded], time_s[crowded]))]
        keys = np.stack([user[order], venue[order], time_s[order]])
        same = np.flatnonzero((keys[:, 1:] == keys[:, :-1]).all(axis=0))
        alike += [order[same], order[same + 1]]
    return np.unique(np.concatenate(alike)) if alike else np.zeros(0, np.int64)
