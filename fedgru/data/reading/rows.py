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
from fedgru.core.types import AnyInts, Bools, Ints
from fedgru.data.checkins import CheckIns, Coded, encode, in_order
from fedgru.data.ledger import Ledger
from fedgru.data.reading.base import Reading
from fedgru.data.reading.growing_columns import NumberColumn, TextColumn
from fedgru.data.reading.row_checks import BadRows, parse_rows, settle
from fedgru.data.reading.sources import Rows, Source

Picked: TypeAlias = tuple[dict[str, Any], dict[str, Any]]  # fields, kept columns

_TEXT_FIELDS = ("user", "venue", "category", "raw_category")
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
        numbers: {name: array}: row_nums, time_s, offset_min, lat_deg, lon_deg.
        fractions: (places of the rows whose time has a fraction, these in nanoseconds).
        bad: BadRows.
        num_rows: good and bad.
    """

    fields: tuple[str, ...]
    texts: dict[str, pa.DictionaryArray]
    numbers: dict[str, npt.NDArray[Any]]
    fractions: tuple[Ints, Ints]
    bad: BadRows
    num_rows: int


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
    swap_hint: str = "",
    layout_hint: str = "",
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
        swap_hint: advice if latitude and longitude are swapped.
        layout_hint: advice if every row has a wrong number of fields.

    Returns:
        `Reading`.

    Raises:
        DataError: at the first bad row, or if no row is good.
    """
    for_parsing = {"time_layout": time_layout, "offset_min": offset_min, "swap_hint": swap_hint}
    read: list[_Part] = []
    columns: dict[str, TextColumn] = {}
    growing: dict[str, NumberColumn] = {}
    cut_at, fraction_ns = NumberColumn(np.int64), NumberColumn(np.int64)
    num_good = 0

    def take(part: _Part) -> None:
        nonlocal num_good
        cut_at.add(num_good + part.fractions[0])
        fraction_ns.add(part.fractions[1])
        num_good += len(part.numbers["time_s"])
        for name, texts in part.texts.items():
            columns.setdefault(name, TextColumn()).add(texts)
        for name, values in part.numbers.items():
            growing.setdefault(name, NumberColumn(values.dtype)).add(values)
        part.texts.clear()
        part.numbers.clear()
        read.append(part)

    threads = usable_cpus()
    with _returning_memory(), ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[_Part]] = deque()
        for rows in parts:
            waiting.append(pool.submit(_read_part, rows, pick, for_parsing))
            if len(waiting) > threads:  # hold only the text that the threads work on
                take(waiting.popleft().result())
        while waiting:
            take(waiting.popleft().result())
    ledger = settle(source.file, [part.bad for part in read], skip_bad_rows, delimiter, layout_hint)
    num_rows, fields = sum(part.num_rows for part in read), read[0].fields
    numbers = {name: growing.pop(name).join() for name in list(growing)}
    codes: dict[str, npt.NDArray[Any]] = {}
    values: dict[str, tuple[str, ...]] = {}
    for name in list(columns):
        codes[name], values[name] = columns.pop(name).join()
    read.clear()

    fractions = cut_at.join(), fraction_ns.join()
    ledger = _put_in_order(ledger, numbers, codes, *fractions)

    texts = {name: in_order(Coded(codes.pop(name), values.pop(name))) for name in list(codes)}
    row_nums, fraction = numbers.pop("row_nums"), numbers.pop("fraction_ns", None)
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
    if fraction is not None:
        ledger = ledger.add("repaired", "fraction of a second cut off", row_nums[fraction > 0])
    ledger = _note_missing(ledger, fields, check_ins, row_nums)
    ledger = ledger.add(
        "kept", "row repeats another one", row_nums[_find_repeats(check_ins, fraction)]
    )
    return Reading(check_ins, ledger, source, num_rows, time_layout, delimiter, settings)


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
        "lat_deg": parsed.lat_deg[keep],
        "lon_deg": parsed.lon_deg[keep],
    }
    fraction_ns = parsed.fraction_ns[keep]
    fractions = np.flatnonzero(fraction_ns), fraction_ns[fraction_ns > 0]
    num_rows = len(rows.row_nums) + len(rows.misfits)
    return _Part(tuple(fields), texts, numbers, fractions, parsed.bad, num_rows)


def _put_in_order(
    ledger: Ledger,
    numbers: dict[str, npt.NDArray[Any]],
    codes: dict[str, npt.NDArray[Any]],
    cut_at: Ints,
    fraction_ns: Ints,
) -> Ledger:
    """Put columns in order of time, in place; fractions of a second count.

    Rows of one moment keep their order. A file with the newest row first is read from its end.

    Args:
        ledger: of the rows dropped.
        numbers, codes: the columns by name; "fraction_ns" is added to `numbers` if there are any.
        cut_at, fraction_ns: int64 [num_cut], rows whose time has a fraction, and the fractions.

    Returns:
        The ledger with the rows that come after a later row of the same user.
    """
    moment = numbers["time_s"]
    if len(cut_at):
        numbers["fraction_ns"] = np.zeros(len(moment), np.int64)
        numbers["fraction_ns"][cut_at] = fraction_ns
        moment = 10**9 * moment + numbers["fraction_ns"]
    if (moment[1:] >= moment[:-1]).all():
        return ledger
    is_late, is_reversed = find_late(codes["user"], moment)
    if is_reversed:
        ledger = ledger.add("repaired", "newest row first, read from the end", numbers["row_nums"])
        for arrays in (numbers, codes):
            for name in arrays:
                arrays[name] = arrays[name][::-1]
        moment = moment[::-1]
        is_late, _ = find_late(codes["user"], moment)
    late = numbers["row_nums"][is_late]
    ledger = ledger.add("repaired", "row out of its user's time order, sorted", late)
    order = np.argsort(moment, kind="stable")
    for arrays in (numbers, codes):
        for name in arrays:
            arrays[name] = arrays[name][order]
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
