"""Readers of check-in files: rows are cut, checked and put in order of time, a part at a time."""

import csv
import io
import itertools
import re
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from fedgru.core.cpus import usable_cpus
from fedgru.core.errors import ConfigError, DataError
from fedgru.data.checkins import FIELDS, NAMES_TAKEN, CheckIns, Coded, encode, in_order
from fedgru.data.ledger import Ledger
from fedgru.data.reading.growing_columns import NumberColumn, TextColumn
from fedgru.data.reading.row_checks import DELIMITERS, BadRows, parse_rows, settle
from fedgru.data.reading.sources import Rows, Source, open_text, split_rows
from fedgru.data.reading.timestamps import MAX_OFFSET_MIN, guess_layout

TSMC2014_FIELDS = (
    "user",
    "venue",
    "raw_category",
    "category",
    "latitude",
    "longitude",
    "offset",
    "time",
)
_TEXT_FIELDS = ("user", "venue", "category", "raw_category")
_OWN = "own:"  # before a kept column's name, to keep it apart from the fields
MAX_COMPARED = 16  # rows of one second, pair by pair
_KEPT_NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Reading:
    """A source file, read.

    Attributes:
        check_ins: its good rows, with the category names of the file in `category`
            (`fedgru.data.categories` turns them into a scheme's).
        ledger: rows dropped, repaired or missing a value.
        source: facts about the file.
        num_rows: rows in the file, good and bad, without a header.
        time_layout: how its times are written, a key of `fedgru.data.reading.timestamps.LAYOUTS`.
        delimiter: the character between its fields.
    """

    check_ins: CheckIns
    ledger: Ledger
    source: Source
    num_rows: int
    time_layout: str
    delimiter: str


def read_tsmc2014(path, skip_bad_rows=False):
    """Read check-ins in the layout of the TSMC2014 data sets.

    Eight columns separated by tabs, without header and without quoting: user, venue, category
    id, category name, latitude, longitude, time-zone offset in minutes, and a time such as
    `Tue Apr 03 18:00:09 +0000 2012`. Plain, .gz or .zip; UTF-8 or Latin-1.

    An empty category id or name, and an empty pair of coordinates, are missing values. Rows out of
    order are sorted, rows that repeat another one are kept, and the ledger counts both.

    Args:
        path: the file.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.

    Returns:
        `Reading`.

    Raises:
        DataError: if the file cannot be read, a row is bad (wrong number of fields; no user or
            venue; unreadable time; a coordinate out of range, alone, or exchanged with the other
            one; an offset that is not a number of minutes within 14 h), or no row is good.

    Source: Yang et al. 2015 (IEEE Trans. SMC: Systems 45(1)), the files published with it.
    """
    with open_text(path) as text:
        return _read_rows(
            text.source,
            split_rows(text, len(TSMC2014_FIELDS), "\t", quoted=False),
            lambda columns: (dict(zip(TSMC2014_FIELDS, columns, strict=True)), {}),
            time_layout="tsmc2014",
            delimiter="\t",
            offset_min=None,
            swap_hint="exchange columns 5 and 6 of the file",
            layout_hint=" For a table with a header use `fedgru data import csv`.",
            skip_bad_rows=skip_bad_rows,
        )


def read_csv(path, columns, delimiter=None, offset_min=None, skip_bad_rows=False, keep=()):
    """Read check-ins from a table with a header row and standard quoting.

    Times are recognised as ISO 8601, Unix seconds or the TSMC2014 layout; fractions of a second
    are cut off and counted. The local clock of a row is, in this order, `offset_min`, the row's
    offset column, the zone in its time, or UTC. A time without a zone is read on the clock of
    `offset_min` if that is given, else as UTC.

    Args:
        path: the file; plain, .gz or .zip, UTF-8 or Latin-1.
        columns: dict from `FIELDS` to names in the header; user, venue and time must be there.
            Without raw_category the category names stand in for it, and the other way round.
        delimiter: one character; None finds the one of comma, semicolon, tab and bar with which
            the header has the columns.
        offset_min: minutes from UTC of every row's local clock, or None.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.
        keep: names in the header of text columns to keep as `CheckIns.own`. An empty field is a
            missing value.

    Returns:
        `Reading`.

    Raises:
        ConfigError: if the columns, delimiter or offset do not make sense, or a kept column is in
            use, named twice, or has a name that cannot be a concept's.
        DataError: as `read_tsmc2014`, and if the header lacks a column or has it twice.
    """
    _check_csv_settings(columns, delimiter, offset_min)
    _check_kept_names(keep, columns)
    wanted = {f"--column {field}={name}": name for field, name in columns.items()}
    wanted |= {f"--keep {name}": name for name in keep}
    swap_hint = "use --column latitude={longitude} --column longitude={latitude}"
    with open_text(path) as text:
        file = text.source.file
        header, delimiter = _read_header(text, wanted, delimiter)

        def pick(fields):
            picked = {field: fields[header.index(name)] for field, name in columns.items()}
            return picked, {name: fields[header.index(name)] for name in keep}

        parts = _without_header(split_rows(text, len(header), delimiter, quoted=True), file)
        first = next(parts)
        return _read_rows(
            text.source,
            itertools.chain([first], parts),
            pick,
            time_layout=guess_layout(pick(first.columns)[0]["time"]),
            delimiter=delimiter,
            offset_min=offset_min,
            swap_hint=swap_hint.format(**columns) if "latitude" in columns else "",
            layout_hint="",
            skip_bad_rows=skip_bad_rows,
        )


def _without_header(parts, file):
    """Yield Rows without the first one of the file."""
    for number, rows in enumerate(parts):
        if number > 0:
            yield rows
            continue
        if rows.row_nums[:1] != [1]:
            raise DataError(f"{file}, row 1: the header cannot be read. Is a quote left open?")
        if len(rows.row_nums) + len(rows.misfits) == 1:
            raise DataError(f"{file} has a header but no rows.")
        columns_below = [column.slice(1) for column in rows.columns]
        yield Rows(columns_below, rows.row_nums[1:], rows.misfits)


def read_column_names(path):
    """Return the names in the header row of a table, cut where most names come out."""
    with open_text(path) as text:
        header, _ = _read_header(text, {}, None)
        return header


def _check_csv_settings(columns, delimiter, offset_min):
    for field in columns:
        if field not in FIELDS:
            raise ConfigError(
                f"--column {field}={columns[field]}: {field!r} is not a field, "
                f"expected one of {', '.join(FIELDS)}."
            )
    for field in FIELDS[:3]:
        if field not in columns:
            raise ConfigError(f"--column {field}=NAME is missing: user, venue and time are needed.")
    if ("latitude" in columns) != ("longitude" in columns):
        given, other = ("latitude", "longitude")[:: 1 if "latitude" in columns else -1]
        raise ConfigError(f"--column {given}={columns[given]} needs --column {other}=NAME too.")
    if delimiter is not None and (not delimiter.isascii() or len(delimiter) != 1):
        raise ConfigError(f"--delimiter is {delimiter!r}, expected one character.")
    if offset_min is None:
        return
    if "offset" in columns:
        raise ConfigError("--offset and --column offset=... exclude each other: give one of them.")
    if abs(offset_min) > MAX_OFFSET_MIN:
        raise ConfigError(
            f"--offset is {offset_min}, expected {-MAX_OFFSET_MIN} to {MAX_OFFSET_MIN} minutes."
        )


def _check_kept_names(keep, columns):
    field_of = {name: field for field, name in columns.items()}
    for i, name in enumerate(keep):
        if name in keep[:i]:
            raise ConfigError(f"--keep {name} is given twice.")
        if name in field_of:
            raise ConfigError(
                f"--keep {name}: that column is in use already (--column {field_of[name]}={name})."
            )
        if not _KEPT_NAME.fullmatch(name):
            raise ConfigError(
                f"--keep {name!r} cannot name a concept: expected letters, digits, '_' and '-'. "
                "Rename the column in the file's header."
            )
        if name in NAMES_TAKEN:
            raise ConfigError(
                f"--keep {name}: that name has a meaning of its own, as have "
                f"{', '.join(other for other in NAMES_TAKEN if other != name)}. Rename the column "
                "in the file's header."
            )


def _read_header(text, wanted, delimiter):
    """Column names of the first row, and the delimiter with which it has most of ours.

    `wanted` are these names by the option that asks for them, as typed.
    """
    file = text.source.file
    head = text.head(1 << 16).decode("utf-8", errors="ignore")
    headers = {}
    for candidate in [delimiter] if delimiter else DELIMITERS:
        names = next(csv.reader(io.StringIO(head, newline=None), delimiter=candidate))
        headers[candidate] = [name.strip() for name in names]
    names = set(wanted.values())
    delimiter = max(headers, key=lambda key: (len(names & set(headers[key])), len(headers[key])))
    header = headers[delimiter]
    for option, name in wanted.items():
        if header.count(name) != 1:
            found = f"{header.count(name)} columns" if name in header else "no column"
            between = DELIMITERS.get(delimiter, repr(delimiter))
            raise DataError(
                f"{file} has {found} {name!r} ({option}). "
                f"Its header, cut at {between}, has: {', '.join(header)}."
            )
    return header, delimiter


@contextmanager
def _returning_memory():
    """Let Arrow take its memory from the system, and give it back: its own pools keep it."""
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


@dataclass(frozen=True)
class _Part:
    """The good rows of a part of a file, in the order of the file; the columns as of CheckIns.

    Attributes:
        fields: which fields of FIELDS the file has.
        texts: {field or "own:" and a name: pyarrow dictionary array}.
        numbers: {name: array}: row_nums, is_cut, time_s, offset_min, lat_deg, lon_deg.
        bad: BadRows.
        num_rows: good and bad.
    """

    fields: tuple[str, ...]
    texts: dict[str, pa.DictionaryArray]
    numbers: dict[str, np.ndarray]
    bad: BadRows
    num_rows: int


def _read_rows(
    source, parts, pick, *, delimiter, time_layout, layout_hint, skip_bad_rows, **settings
):
    """Parse and check the rows, put the good ones in order of time, and code their texts.

    Args:
        source: Source.
        parts: Rows, part after part of the file.
        pick: called with the columns of a part; returns ({field: column}, {kept name: column}).
        settings: for `parse_rows`.
    """
    read, columns, growing = [], {}, {}

    def take(part):
        for name, texts in part.texts.items():
            columns.setdefault(name, TextColumn()).add(texts)
        for name, values in part.numbers.items():
            growing.setdefault(name, NumberColumn(values.dtype)).add(values)
        part.texts.clear()
        part.numbers.clear()
        read.append(part)

    threads = usable_cpus()
    with _returning_memory(), ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for rows in parts:
            waiting.append(pool.submit(_read_part, rows, pick, time_layout, settings))
            if len(waiting) > threads:  # no more text in memory than is being worked on
                take(waiting.popleft().result())
        while waiting:
            take(waiting.popleft().result())
    ledger = settle(source.file, [part.bad for part in read], skip_bad_rows, delimiter, layout_hint)
    num_rows, fields = sum(part.num_rows for part in read), read[0].fields
    numbers = {name: growing.pop(name).join() for name in list(growing)}
    codes, values = {}, {}
    for name in list(columns):
        codes[name], values[name] = columns.pop(name).join()
    read.clear()

    time_s = numbers["time_s"]
    is_late = time_s < np.maximum.accumulate(time_s)
    ledger = ledger.add("repaired", "row out of time order, sorted", numbers["row_nums"][is_late])
    if is_late.any():
        order = np.argsort(time_s, kind="stable")
        for columns in (numbers, codes):
            for name in columns:
                columns[name] = columns[name][order]

    texts = {name: in_order(Coded(codes.pop(name), values.pop(name))) for name in list(codes)}
    row_nums, is_cut = numbers.pop("row_nums"), numbers.pop("is_cut")
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
    ledger = ledger.add("repaired", "fraction of a second cut off", row_nums[is_cut])
    ledger = _note_missing(ledger, fields, check_ins, row_nums)
    ledger = ledger.add("kept", "row repeats another one", row_nums[_find_repeats(check_ins)])
    return Reading(check_ins, ledger, source, num_rows, time_layout, delimiter)


def _read_part(rows, pick, time_layout, settings):
    """Parse and check some rows, and code the texts of the good ones."""
    fields, own = pick(rows.columns)
    parsed = parse_rows(rows, fields | own, time_layout=time_layout, **settings)
    keep = slice(None) if parsed.good.all() else np.flatnonzero(parsed.good)

    def code(texts):
        return encode(texts if isinstance(keep, slice) else texts.take(pa.array(keep)))

    texts = {field: code(fields[field]) for field in _TEXT_FIELDS if field in fields}
    texts |= {f"{_OWN}{name}": code(column) for name, column in own.items()}
    numbers = {
        "row_nums": rows.row_nums[keep].astype(np.uint32),  # MAX_TEXT_BYTES hold no more rows
        "is_cut": parsed.is_cut[keep],
        "time_s": parsed.time_s[keep],
        "offset_min": parsed.offset_min[keep].astype(np.int32),
        "lat_deg": parsed.lat_deg[keep],
        "lon_deg": parsed.lon_deg[keep],
    }
    return _Part(tuple(fields), texts, numbers, parsed.bad, len(rows.row_nums) + len(rows.misfits))


def _note_missing(ledger, fields, check_ins, row_nums):
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


def _find_repeats(check_ins):
    """Indices of rows that equal an earlier one in every column."""
    user, venue, time_s = check_ins.user.codes, check_ins.venue.codes, check_ins.time_s
    columns = (
        user,
        venue,
        time_s,
        check_ins.category.codes,
        check_ins.raw_category.codes,
        check_ins.offset_min,
        np.nan_to_num(check_ins.lat_deg, nan=999),
        np.nan_to_num(check_ins.lon_deg, nan=999),
        *(coded.codes for coded in check_ins.own.values()),
    )
    seen, repeats = set(), []
    for i in _find_alike(user, venue, time_s):
        row = tuple(column[i] for column in columns)
        if row in seen:
            repeats.append(i)
        seen.add(row)
    return np.array(repeats, np.int64)


def _find_alike(user, venue, time_s):
    """Ascending indices of rows that have user, venue and time with another one in common.

    Rows are in order of time: each is compared with those of its second, which are few. Where
    a second has many, they are sorted.
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
