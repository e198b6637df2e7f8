"""Reader of tables with a header row: CSV with any delimiter."""

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import AnyPath
from fedgru.data.checkins import FIELDS, NAMES_TAKEN
from fedgru.data.ledger import Ledger
from fedgru.data.reading.base import SKIP_BAD_ROWS, Option, Reader, Reading
from fedgru.data.reading.row_checks import DELIMITERS
from fedgru.data.reading.rows import Picked, read_rows
from fedgru.data.reading.sources import Rows, Text, open_text, split_rows
from fedgru.data.reading.timestamps import MAX_OFFSET_MIN, guess_layout

_HEAD_BYTES = 1 << 16  # the header ends before
_KEPT_NAME = re.compile(r"[A-Za-z0-9_-]+")


def read_csv(
    path: AnyPath,
    columns: dict[str, str],
    delimiter: str | None = None,
    offset_min: int | None = None,
    skip_bad_rows: bool = False,
    keep: Sequence[str] = (),
    times_without_zone: str | None = None,
) -> Reading:
    """Read check-ins from a table with a header row and standard quoting.

    Times are recognised as ISO 8601, Unix seconds or the TSMC2014 layout. Fractions of a second
    are cut off after sorting, and counted. The local clock of a row is, in this order,
    `offset_min`, the row's offset column, the zone in the time, or UTC. A time without a zone is
    local time by that clock, or UTC with `times_without_zone` "utc"; the ledger counts such rows.

    Args:
        path: the file; plain, .gz or .zip, UTF-8 or Latin-1.
        columns: dict from `FIELDS` to names in the header; user, venue and time must be there.
            If raw_category or category is missing, the other one is used for it.
        delimiter: one character; None takes the one of comma, semicolon, tab and bar that splits
            the header into these columns.
        offset_min: minutes from UTC of every row's local clock, or None.
        skip_bad_rows: drop and count bad rows instead of stopping at the first.
        keep: names in the header of text columns to keep as `CheckIns.own`. An empty field is a
            missing value.
        times_without_zone: "local" or "utc"; None for local time where an offset is given, else
            UTC, but not if other times have a zone.

    Returns:
        `Reading`.

    Raises:
        ConfigError: if the columns, delimiter or offset are wrong, or a kept column is in use,
            named twice, or has a name that a concept cannot have.
        DataError: as in `read_tsmc2014`, and if the header lacks a column or has it twice.
    """
    _check_csv_settings(columns, delimiter, offset_min)
    _check_zone_setting(times_without_zone, offset_min is not None or "offset" in columns)
    _check_kept_names(keep, columns)
    wanted = {f"`columns` {field}={name}": name for field, name in columns.items()}
    wanted |= {f"`keep` {name}": name for name in keep}
    settings: dict[str, Any] = {
        "columns": columns,
        "offset_min": offset_min,
        "skip_bad_rows": skip_bad_rows,
    }
    if keep:
        settings["keep"] = list(keep)
    if times_without_zone is not None:
        settings["times_without_zone"] = times_without_zone
    swap_hint = "use `columns` latitude={longitude} `columns` longitude={latitude}"
    with open_text(path) as text:
        file = text.source.file
        text, num_blank = _without_blank_lines(text)
        header, delimiter = _read_header(text, wanted, delimiter)

        def pick(fields: Sequence[Any]) -> Picked:
            picked = {field: fields[header.index(name)] for field, name in columns.items()}
            return picked, {name: fields[header.index(name)] for name in keep}

        parts = split_rows(text, len(header), delimiter, quoted=True, first_row=num_blank + 1)
        parts = _without_header(parts, file, num_blank + 1)
        first = next(parts)
        return read_rows(
            text.source,
            itertools.chain([first], parts),
            pick,
            time_layout=guess_layout(pick(first.columns)[0]["time"]),
            delimiter=delimiter,
            offset_min=offset_min,
            times_without_zone=times_without_zone,
            swap_hint=swap_hint.format(**columns) if "latitude" in columns else "",
            skip_bad_rows=skip_bad_rows,
            settings=settings,
            ledger=Ledger().add(
                "repaired", "blank line before the header, skipped", range(1, num_blank + 1)
            ),
        )


def _without_header(parts: Iterable[Rows], file: str, header_row: int) -> Iterator[Rows]:
    """Yield Rows without the row of the header."""
    for number, rows in enumerate(parts):
        if number > 0:
            yield rows
            continue
        if rows.row_nums[:1] != [header_row]:
            raise DataError(
                f"{file}, row {header_row}: the header cannot be read. Is a quote left open?"
            )
        if len(rows.row_nums) + len(rows.misfits) == 1:
            raise DataError(f"{file} has a header but no rows.")
        columns_below = [column.slice(1) for column in rows.columns]
        yield Rows(columns_below, rows.row_nums[1:], rows.misfits)


def _without_blank_lines(text: Text) -> tuple[Text, int]:
    """Return a text without the blank lines before its header, and their number."""
    head = text.head(_HEAD_BYTES)
    blank = re.match(rb"(?:[ \t]*(?:\r\n|\n|\r))*", head)
    size = blank.end() if blank else 0
    lines = head[:size].replace(b"\r\n", b"\n").replace(b"\r", b"\n").count(b"\n")
    return replace(text, begin=text.begin + size), lines


def read_column_names(path: AnyPath) -> list[str]:
    """Return the names in the header row of a table, split by the delimiter with most names."""
    with open_text(path) as text:
        header, _ = _read_header(_without_blank_lines(text)[0], {}, None)
        return header


def _check_csv_settings(
    columns: Mapping[str, str], delimiter: str | None, offset_min: int | None
) -> None:
    for field in columns:
        if field not in FIELDS:
            raise ConfigError(
                f"`columns` {field}={columns[field]}: {field!r} is not a field, "
                f"expected one of {', '.join(FIELDS)}."
            )
    for field in FIELDS[:3]:
        if field not in columns:
            raise ConfigError(
                f"`columns` {field}=NAME is missing: user, venue and time are needed."
            )
    if ("latitude" in columns) != ("longitude" in columns):
        given, other = ("latitude", "longitude")[:: 1 if "latitude" in columns else -1]
        raise ConfigError(f"`columns` {given}={columns[given]} needs `columns` {other}=NAME too.")
    if delimiter is not None and (not delimiter.isascii() or len(delimiter) != 1):
        raise ConfigError(f"`delimiter` is {delimiter!r}, expected one character.")
    if offset_min is None:
        return
    if "offset" in columns:
        raise ConfigError(
            "`offset_min` and `columns` offset=... exclude each other: give one of them."
        )
    if abs(offset_min) > MAX_OFFSET_MIN:
        raise ConfigError(
            f"`offset_min` is {offset_min}, expected {-MAX_OFFSET_MIN} to {MAX_OFFSET_MIN} minutes."
        )


def _check_zone_setting(times_without_zone: str | None, has_offset: bool) -> None:
    if times_without_zone not in (None, "local", "utc"):
        raise ConfigError(
            f"`times_without_zone` is {times_without_zone!r}, expected 'local' or 'utc'."
        )
    if times_without_zone == "local" and not has_offset:
        raise ConfigError(
            "`times_without_zone` local needs the clock: give `offset_min` or `columns` "
            "offset=NAME."
        )


def _check_kept_names(keep: Sequence[str], columns: Mapping[str, str]) -> None:
    field_of = {name: field for field, name in columns.items()}
    for i, name in enumerate(keep):
        if name in keep[:i]:
            raise ConfigError(f"`keep` {name} is given twice.")
        if name in field_of:
            raise ConfigError(
                f"`keep` {name}: that column is in use already (`columns` {field_of[name]}={name})."
            )
        if not _KEPT_NAME.fullmatch(name):
            raise ConfigError(
                f"`keep` {name!r} cannot name a concept: expected letters, digits, '_' and '-'. "
                "Rename the column in the file's header."
            )
        if name in NAMES_TAKEN:
            raise ConfigError(
                f"`keep` {name}: that name is reserved, like "
                f"{', '.join(other for other in NAMES_TAKEN if other != name)}. Rename the column "
                "in the file's header."
            )


def _read_header(
    text: Text, wanted: Mapping[str, str], delimiter: str | None
) -> tuple[list[str], str]:
    """Return the column names of the first row, and the delimiter that finds most wanted names.

    `wanted`: {option as typed: the column name that it needs}.
    """
    file = text.source.file
    head = text.head(_HEAD_BYTES).decode("utf-8", errors="ignore")
    headers = {}
    for candidate in [delimiter] if delimiter else DELIMITERS:
        cells = next(csv.reader(io.StringIO(head, newline=None), delimiter=candidate))
        headers[candidate] = [cell.strip() for cell in cells]
    names = set(wanted.values())
    delimiter = max(headers, key=lambda key: (len(names & set(headers[key])), len(headers[key])))
    header = headers[delimiter]
    for option, name in wanted.items():
        if header.count(name) != 1:
            found = f"{header.count(name)} columns" if name in header else "no column"
            between = DELIMITERS.get(delimiter, repr(delimiter))
            raise DataError(
                f"{file} has {found} {name!r} ({option}). "
                f"Its header, split at {between}, has: {', '.join(header)}."
            )
    return header, delimiter


def _read(path: AnyPath, options: Mapping[str, Any]) -> Reading:
    delimiter = options["delimiter"]
    return read_csv(path, **{**options, "delimiter": "\t" if delimiter in _TABS else delimiter})


def _check_categories(options: Mapping[str, Any], categories: str) -> None:
    if categories != "raw" and not {"category", "raw_category"} & set(options["columns"]):
        raise DataError(f"`categories` {categories} has no effect without `columns` category=NAME.")


_TABS = ("tab", "\\t")  # as people type a tab

READER = Reader(
    name="csv",
    help="Import FILE, a table with a header row.",
    details="It needs columns for user, venue and time. Times are ISO 8601 "
    '("2012-04-03T18:00:09Z"), Unix seconds, or as in TSMC2014; the layout is found and shown.',
    example=(
        "fedgru data import csv tests/data/visits.csv --name visits \\",
        "  --column user=who --column venue=place --column time=when",
    ),
    read=_read,
    options=(
        Option(
            "columns",
            "The name of a column in the header. FIELD is user, venue, time (these three are "
            "needed), latitude, longitude, category, raw_category or offset (minutes from UTC).",
            type=dict,
            flag="--column",
            required=True,
        ),
        Option(
            "keep",
            "Also import this column of the table, such as religion or income_band: it can then be "
            "protected, by fedgru train --agnostic-to and fedgru audit --concept. Can be repeated.",
            metavar="COLUMN",
            multiple=True,
            default=(),
        ),
        Option(
            "delimiter",
            "Character between fields; 'tab' for a tab.  [default: comma, semicolon, tab or bar, "
            "found from the header]",
            metavar="CHARACTER",
        ),
        Option(
            "offset_min",
            "Minutes from UTC of the local clock, for every row.  [default: the offset column, the "
            "zone in the time, or UTC]",
            type=int,
            flag="--offset",
            metavar="MINUTES",
        ),
        Option(
            "times_without_zone",
            "Clock of the times without a zone.  [default: local if --offset or an offset column "
            "is given, else utc; needed if other times have a zone]",
            metavar="local|utc",
        ),
        SKIP_BAD_ROWS,
    ),
    check=_check_categories,
)
