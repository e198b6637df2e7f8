"""The columns of a large data set, stored beside its Parquet file to be read as memory maps."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedgru.core.types import AnyPath, Floats
from fedgru.data.checkins import CheckIns, Coded
from fedgru.storage import mapped
from fedgru.storage.mapped import MadeFrom, Mapped

FOLDER = "columns"
_TEXTS = ("user", "venue", "category", "raw_category")
_NUMBERS = ("time_s", "offset_min", "lat_deg", "lon_deg")
_OWN = "own:"


def made_from(parquet: AnyPath, passport: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts about a Parquet file that differ once somebody changes it."""
    facts = Path(parquet).stat()
    return {
        "fingerprint": passport["fingerprint"],
        "size_bytes": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
    }


def save(
    folder: AnyPath,
    check_ins: CheckIns,
    best_prob: Floats | None,
    bound_to: MadeFrom | Callable[[], MadeFrom],
) -> None:
    """Store the columns of check-ins.

    Args:
        folder: folder of the data set.
        check_ins, best_prob: as in `fedgru.data.datasets.DataSet`, verified.
        bound_to: from `made_from`, or a function that returns it.

    Raises:
        OSError: if they cannot be written.
    """
    arrays = {name: getattr(check_ins, name) for name in _NUMBERS}
    coded = {name: getattr(check_ins, name) for name in _TEXTS}
    coded |= {f"{_OWN}{name}": column for name, column in check_ins.own.items()}
    for number, column in enumerate(coded.values()):  # not every column's name can be a file's
        arrays[f"text{number}.codes"] = column.codes
        arrays |= mapped.named_texts(f"text{number}", column.values)
    if best_prob is not None:
        arrays["best_prob"] = best_prob
    mapped.save(Path(folder, FOLDER), arrays, {"texts": list(coded)}, bound_to)


def load(folder: AnyPath, bound_to: MadeFrom) -> tuple[CheckIns, Floats | None, Mapped] | None:
    """Return (CheckIns, best_prob, Mapped); None if the columns are missing or outdated."""
    found = mapped.load(Path(folder, FOLDER), bound_to)
    if found is None:
        return None
    coded: dict[str, Any] = {
        name: Coded(found.arrays[f"text{number}.codes"], found.texts(f"text{number}"))
        for number, name in enumerate(found.facts["texts"])
    }
    own = {name.removeprefix(_OWN): coded.pop(name) for name in list(coded) if _OWN in name}
    numbers: dict[str, Any] = {name: found.arrays[name] for name in _NUMBERS}
    return CheckIns(**coded, **numbers, own=own), found.arrays.get("best_prob"), found
