"""Category name -> coarse category: the table that comes with fedgru, or the user's table."""

import csv
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath
from fedgru.data.checkins import CheckIns, Coded
from fedgru.data.reading.sources import read_text

# 251 category names of TSMC2014 New York in 27 coarse categories. 219 are as in the notebook that
# fedgru started from, with its oddities (Campground is Home); the others were added by hand.
COARSE_TABLE = Path(__file__).with_name("coarse_categories.csv")
HEADERS = (["name", "category"], ["category_name", "coarse_category"])
_MAX_LISTED = 20


@dataclass(frozen=True)
class Scheme:
    """How category names become categories.

    Attributes:
        name: "coarse", "raw", or the file name of the user's table.
        table: dict from category name to category; None keeps the names.
        sha256: SHA-256 of the table's file; None for "raw".
    """

    name: str
    table: dict[str, str] | None = None
    sha256: str | None = None


def load_scheme(choice: AnyPath) -> Scheme:
    """Return the scheme of the setting `categories`: coarse, raw or a file.

    Args:
        choice: "coarse", "raw", or the path of a CSV with the header `name,category`; UTF-8 or
            Latin-1.

    Raises:
        DataError: if the table cannot be read, has another header, a row without two values, or
            two categories for one name.
    """
    if choice == "raw":
        return Scheme("raw")
    path = COARSE_TABLE if choice == "coarse" else Path(choice)
    if choice != "coarse" and not path.exists():
        raise DataError(f"`categories` is {str(choice)!r}, expected coarse, raw or a CSV file.")
    text, source = read_text(path)
    table = _read_table(text.decode(), source.file)
    return Scheme("coarse" if choice == "coarse" else source.file, table, source.sha256)


def _read_table(text: str, file: str) -> dict[str, str]:
    try:
        rows = list(csv.reader(io.StringIO(text, newline=None), strict=True))
    except csv.Error as error:
        raise DataError(f"{file} cannot be cut into rows: {error}.") from None
    header = [cell.strip() for cell in rows[0]]
    if header not in HEADERS:
        raise DataError(
            f"{file}, row 1: the header is {','.join(header)!r}, expected {','.join(HEADERS[0])!r}."
        )
    table: dict[str, str] = {}
    row_nums: dict[str, int] = {}
    for row_num, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if not cells:
            continue
        if any("\n" in cell for cell in cells):
            raise DataError(f"{file}, row {row_num}: a quote is left open.")
        if len(cells) != 2 or not all(cells):
            raise DataError(f"{file}, row {row_num}: {cells}, expected a name and its category.")
        name, category = _normal(cells[0]), cells[1]
        if table.setdefault(name, category) != category:
            raise DataError(
                f"{file}, row {row_num}: {name!r} is {category!r}, "
                f"but {table[name]!r} in row {row_nums[name]}."
            )
        row_nums.setdefault(name, row_num)
    if not table:
        raise DataError(f"{file} has a header but no rows.")
    return table


def apply_scheme(check_ins: CheckIns, scheme: Scheme, file: str) -> CheckIns:
    """Return check-ins with category names replaced by the scheme's categories.

    Args:
        check_ins: `CheckIns` whose `category` holds the names of the source.
        scheme: `Scheme`.
        file: the source's name, for the message.

    Returns:
        `CheckIns`; a missing name stays missing.

    Raises:
        DataError: if the scheme lacks a name; lists the names and how many check-ins each has.
    """
    if scheme.table is None:
        return check_ins
    names = check_ins.category
    found = [scheme.table.get(_normal(name)) for name in names.values]
    categories = [category for category in found if category is not None]
    if len(categories) < len(found):
        counts = np.bincount(names.codes[names.codes >= 0], minlength=len(names.values))
        unmapped = sorted(
            (name, int(count))
            for name, category, count in zip(names.values, found, counts, strict=True)
            if category is None
        )
        raise DataError(_unmapped_message(unmapped, scheme, file))
    values = tuple(dict.fromkeys(categories))
    codes = np.array([values.index(category) for category in categories] + [-1], np.int32)
    return replace(check_ins, category=Coded(codes[names.codes], values))


def translate(scheme: Scheme | None, name: str) -> str:
    """Return the category of a name in a Scheme; a name that the scheme lacks is its category.

    >>> translate(Scheme("mine.csv", {"Café": "Food"}), " Café ")
    'Food'
    >>> translate(Scheme("mine.csv", {"Café": "Food"}), "Food"), translate(Scheme("raw"), "Bar")
    ('Food', 'Bar')

    Args:
        scheme: Scheme, or None to keep the names.
        name: str.
    """
    if scheme is None or scheme.table is None:
        return name
    return scheme.table.get(_normal(name), name)


def _unmapped_message(unmapped: Sequence[tuple[str, int]], scheme: Scheme, file: str) -> str:
    number = "1 category name is" if len(unmapped) == 1 else f"{len(unmapped):,} category names are"
    lines = [
        f"  {name!r} ({count:,} check-in{'' if count == 1 else 's'})"
        for name, count in unmapped[:_MAX_LISTED]
    ]
    if len(unmapped) > _MAX_LISTED:
        lines.append(f"  and {len(unmapped) - _MAX_LISTED:,} more")
    where = "the coarse categories" if scheme.name == "coarse" else scheme.name
    advice = (
        "Use `categories` raw, or `categories` FILE with your own table (header name,category)."
        if scheme.name == "coarse"
        else f"Add them to {scheme.name}."
    )
    return "\n".join([f"{file}: {number} not in {where}:", *lines, advice])


def _normal(name: str) -> str:
    """Return one spelling for names that look the same: é is one character, or e and an accent."""
    return unicodedata.normalize("NFC", name.strip())
