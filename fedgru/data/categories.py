"""Category name -> coarse category: the table that comes with fedgru, or the user's table."""

import csv
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedgru.core.errors import DataError
from fedgru.core.types import AnyPath
from fedgru.data.checkins import CheckIns, Coded, in_order
from fedgru.data.reading.sources import read_text

# 251 category names of TSMC2014 New York in 27 coarse categories. 219 are as in the notebook that
# fedgru started from, with its oddities (Campground is Home); the others were added by hand.
COARSE_TABLE = Path(__file__).with_name("coarse_categories.csv")
HEADERS = (["name", "category"], ["category_name", "coarse_category"])
_MAX_LISTED = 20
_OTHER_SCHEMES = (
    "Use `categories` raw, or `categories` FILE with your own table (header name,category)."
)
_TREE = re.compile(r"(.*\.json(?:\.gz|\.zip)?)(?::(\d{1,2}))?", re.DOTALL)


@dataclass(frozen=True)
class Scheme:
    """How category names become categories.

    Attributes:
        name: "coarse", "raw", the file name of the user's table, or that of a tree, a colon and
            the depth.
        table: dict from category name to category; None keeps the names.
        sha256: SHA-256 of the table's file; None for "raw".
        by_id: of a tree, dict from category id to category; it counts before the table of names.
        depth: of a tree, the level of its categories.
    """

    name: str
    table: dict[str, str] | None = None
    sha256: str | None = None
    by_id: dict[str, str] | None = None
    depth: int | None = None


def load_scheme(choice: AnyPath) -> Scheme:
    """Return the scheme of the setting `categories`: coarse, raw or a file.

    Args:
        choice: "coarse", "raw", the path of a CSV with the header `name,category`, in UTF-8 or
            Latin-1, or the path of a tree of categories, `FILE.json` or `FILE.json:DEPTH`, see
            `load_tree`.

    Raises:
        DataError: if the table cannot be read, has another header, a row without two values, or
            two categories for one name; or as `load_tree`.
    """
    if choice == "raw":
        return Scheme("raw")
    if tree := _TREE.fullmatch(str(choice)):
        return load_tree(tree[1], int(tree[2] or 1))
    path = COARSE_TABLE if choice == "coarse" else Path(choice)
    if choice != "coarse" and not path.exists():
        raise DataError(f"`categories` is {str(choice)!r}, expected coarse, raw or a CSV file.")
    text, source = read_text(path)
    table = _read_table(text.decode(), source.file)
    return Scheme("coarse" if choice == "coarse" else source.file, table, source.sha256)


def load_tree(path: AnyPath, depth: int = 1) -> Scheme:
    """Return the scheme of a tree of categories, cut at a depth.

    The file is what Foursquare's categories endpoint returns: a list of objects with `id`, `name`
    and `categories`, the list of those below; or an object that holds that list under `response`
    and `categories`. A category above the depth is its own. Where an id is unknown, its name
    counts, if it stands for one category: in the tree, or else among the file's check-ins with ids.

    Args:
        path: the file; plain, .gz or .zip.
        depth: 1 for the roots.

    Raises:
        DataError: if the file is no such tree, or the depth is 0.
    """
    text, source = read_text(path)
    try:
        nodes = json.loads(text)
        if isinstance(nodes, dict):
            nodes = nodes.get("response", nodes)["categories"]
        by_id: dict[str, str] = {}
        by_name: dict[str, set[str]] = {}
        waiting = [(node, 1, "") for node in nodes]
        while waiting:
            node, level, above = waiting.pop()
            category = node["name"] if level <= depth else above
            by_id[node["id"]] = category
            by_name.setdefault(_normal(node["name"]), set()).add(category)
            waiting += [(below, level + 1, category) for below in node.get("categories", [])]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DataError(
            f"{source.file} is not a tree of categories: expected a JSON list of objects with id, "
            "name and categories."
        ) from None
    if not by_id or depth < 1:
        raise DataError(
            f"`categories` {source.file}:{depth}: expected a tree with categories, and a depth of "
            "at least 1."
        )
    table = {name: found.pop() for name, found in by_name.items() if len(found) == 1}
    return Scheme(f"{source.file}:{depth}", table, source.sha256, by_id, depth)


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
    names, ids = check_ins.category, check_ins.raw_category
    values: dict[str, int] = {}

    def codes_of(coded: Coded, table: Mapping[str, str]) -> npt.NDArray[np.int32]:
        """The category of each value in a table, as a code; -1 for one that it lacks."""
        found = [table.get(_normal(text)) for text in coded.values]
        codes = [-1 if one is None else values.setdefault(one, len(values)) for one in found]
        return np.array([*codes, -1], np.int32)[coded.codes]

    codes = codes_of(names, scheme.table)
    if scheme.by_id is not None:
        of_ids = codes_of(ids, scheme.by_id)
        codes = np.where(codes >= 0, codes, _by_namesakes(names, of_ids))
        codes = np.where(of_ids >= 0, of_ids, codes)
    lacking = (codes < 0) & (names.codes >= 0)
    if lacking.any():
        counts = np.bincount(names.codes[lacking], minlength=len(names.values))
        unmapped = [(names.values[i], int(counts[i])) for i in np.flatnonzero(counts).tolist()]
        raise DataError(_unmapped_message(sorted(unmapped), scheme, file))
    return replace(check_ins, category=in_order(Coded(codes, tuple(values))))


def _by_namesakes(names: Coded, of_ids: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Return the category that a check-in's name has by the ids of other check-ins, if it is one.

    `of_ids`: int32 [num_checkins], category by id, -1 where there is none; the result is too.
    """
    known = (of_ids >= 0) & (names.codes >= 0)
    pairs = np.unique(np.stack([names.codes[known], of_ids[known]]), axis=1)
    name, first, number = np.unique(pairs[0], return_index=True, return_counts=True)
    category = np.full(len(names.values) + 1, -1, np.int32)
    category[name[number == 1]] = pairs[1, first[number == 1]]
    return category[names.codes]


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
    if scheme.by_id is not None:
        advice = f"Neither their ids nor their names are in it. {_OTHER_SCHEMES}"
    elif scheme.name == "coarse":
        advice = _OTHER_SCHEMES
    else:
        advice = f"Add them to {scheme.name}."
    return "\n".join([f"{file}: {number} not in {where}:", *lines, advice])


def _normal(name: str) -> str:
    """Return one spelling for names that look the same: é is one character, or e and an accent."""
    return unicodedata.normalize("NFC", name.strip())
