"""Places in a table of their own: coordinates and categories, joined to check-ins by the id."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fedgru.core.errors import DataError
from fedgru.core.types import AnyInts, Bools, Doubles
from fedgru.data.checkins import Coded, code_texts
from fedgru.data.ledger import Ledger, Line
from fedgru.data.reading.row_checks import BadRows, check_coordinates, settle
from fedgru.data.reading.sources import Rows

FIELDS = ("venue", "latitude", "longitude", "category", "raw_category")


@dataclass(frozen=True)
class Places:
    """A table of places.

    Attributes:
        file: name of its file.
        ids: pyarrow string array [num_places]; of equal ids the first counts.
        lat_deg, lon_deg: float64 [num_places], NaN where missing; None if the table has none.
        texts: {"category", "raw_category": Coded [num_places]} of those that the table has.
        ledger: what was found in the table.
        inside: bool [num_places], which places are wanted; None for all.
        where: what `inside` stands for, in a few words.
    """

    file: str
    ids: pa.StringArray
    lat_deg: Doubles | None
    lon_deg: Doubles | None
    texts: Mapping[str, Coded]
    ledger: Ledger = Ledger()
    inside: Bools | None = None
    where: str = ""

    def only(self, inside: Bools, where: str) -> "Places":
        """Return these places with check-ins elsewhere to be dropped."""
        return replace(self, inside=inside, where=where)


def read_places(
    file: str,
    parts: Sequence[Rows],
    pick: Callable[[list[Any]], dict[str, Any]],
    delimiter: str,
    skip_bad_rows: bool,
    swap_hint: str = "",
) -> Places:
    """Return the Places of a table.

    Args:
        file: the file's name, for messages.
        parts: `Rows` of the whole table.
        pick: called with the columns; returns {field: column}, with fields of `FIELDS`.
        delimiter: the character between fields.
        skip_bad_rows: leave out and count bad rows instead of stopping at the first.
        swap_hint: advice if latitude and longitude are swapped.

    Raises:
        DataError: at the first bad row: of another number of fields, without an id, with a
            coordinate out of range or alone; or if no row is good.
    """
    bads: list[BadRows] = []
    kept: dict[str, list[Any]] = {}
    for rows in parts:
        fields, bad = pick(rows.columns), BadRows(rows)
        empty = pc.equal(pc.utf8_trim_whitespace(fields["venue"]), "").to_numpy(False)
        bad.flag(empty, "place has no id", lambda i: "the place has no id.")
        lat_deg, lon_deg = check_coordinates(bad, fields, swap_hint)
        good = np.flatnonzero(bad.close())
        bads.append(bad)
        numbers = {"latitude": lat_deg, "longitude": lon_deg}
        for field, column in fields.items():
            values = numbers.get(field)
            kept.setdefault(field, []).append(
                column.take(pa.array(good)) if values is None else values[good]
            )
    found = settle(file, bads, skip_bad_rows, delimiter, "")
    lines = [Line("missing", f"in {file}: {one.reason}", one.rows) for one in found.lines]
    ids = pa.chunked_array(kept["venue"], pa.string()).combine_chunks()
    if num_twice := len(ids) - pc.count_distinct(ids).as_py():
        lines.append(Line("kept", f"in {file}: an id again, the first counts", num_twice))
    texts: dict[str, Coded] = {
        field: code_texts(pa.chunked_array(kept[field], pa.string()).combine_chunks())
        for field in ("category", "raw_category")
        if field in kept
    }
    has_degrees = "latitude" in kept
    return Places(
        file,
        ids,
        np.concatenate(kept["latitude"]) if has_degrees else None,
        np.concatenate(kept["longitude"]) if has_degrees else None,
        texts,
        Ledger(tuple(lines)),
    )


def join_places(
    places: Places,
    ledger: Ledger,
    numbers: dict[str, npt.NDArray[Any]],
    texts: dict[str, Coded],
    source_file: str,
) -> Ledger:
    """Give check-ins the coordinates and categories of their places; columns change in place.

    Args:
        places: Places.
        ledger: of the check-ins so far.
        numbers, texts: the check-ins' columns by name, see `CheckIns`.
        source_file: the check-ins' file, for messages.

    Returns:
        The ledger with check-ins dropped because they are elsewhere, and with those whose venue is
        not in the table.

    Raises:
        DataError: if no check-in is left.
    """
    venue = texts["venue"]
    row_of_value = pc.index_in(pa.array(venue.values, pa.string()), value_set=places.ids)
    row_of_value = row_of_value.fill_null(-1).to_numpy(False).astype(np.int32)
    if places.inside is not None:
        keep = np.append(places.inside, False)[row_of_value][venue.codes]
        dropped = numbers["row_nums"][~keep]
        ledger = ledger.add("dropped", f"outside of {places.where}", dropped)
        if not keep.any():
            raise DataError(f"{source_file} has no check-in in {places.where}.")
        for name in numbers:
            numbers[name] = numbers[name][keep]
        for name in texts:
            texts[name] = Coded(texts[name].codes[keep], texts[name].values)
        venue = texts["venue"]
    row: AnyInts = row_of_value[venue.codes]
    unknown = numbers["row_nums"][row < 0]
    ledger += places.ledger
    ledger = ledger.add("missing", f"venue is not in {places.file}", unknown)
    for name in ("lat_deg", "lon_deg"):
        degrees = getattr(places, name)
        if degrees is not None:
            numbers[name] = np.append(degrees, np.nan)[row]
    for name, coded in places.texts.items():
        texts[name] = Coded(np.append(coded.codes, np.int32(-1))[row], coded.values)
    return ledger
