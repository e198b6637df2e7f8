"""The columns of a large data set, laid out beside its Parquet file to be read as memory maps."""

from pathlib import Path

from fedgru.data.checkins import CheckIns, Coded
from fedgru.storage import mapped

FOLDER = "columns"
_TEXTS = ("user", "venue", "category", "raw_category")
_NUMBERS = ("time_s", "offset_min", "lat_deg", "lon_deg")
_OWN = "own:"


def made_from(parquet, passport):
    """What the columns of a Parquet file are bound to: whoever changes it leaves another time."""
    facts = Path(parquet).stat()
    return {
        "fingerprint": passport["fingerprint"],
        "size_bytes": facts.st_size,
        "mtime_ns": facts.st_mtime_ns,
    }


def save(folder, check_ins, best_prob, bound_to):
    """Lay out check-ins; OSError if that cannot be done.

    Args:
        folder: of the data set.
        check_ins, best_prob: as of `fedgru.data.datasets.DataSet`, verified.
        bound_to: from `made_from`.
    """
    arrays = {name: getattr(check_ins, name) for name in _NUMBERS}
    coded = {name: getattr(check_ins, name) for name in _TEXTS}
    coded |= {f"{_OWN}{name}": column for name, column in check_ins.own.items()}
    for number, column in enumerate(coded.values()):  # a kept column's name may be no file's
        arrays[f"text{number}.codes"] = column.codes
        arrays |= mapped.named_texts(f"text{number}", column.values)
    if best_prob is not None:
        arrays["best_prob"] = best_prob
    mapped.save(Path(folder, FOLDER), arrays, {"texts": list(coded)}, bound_to)


def load(folder, bound_to):
    """Return (CheckIns, best_prob, Mapped); None if there are none of these check-ins."""
    found = mapped.load(Path(folder, FOLDER), bound_to)
    if found is None:
        return None
    coded = {
        name: Coded(found.arrays[f"text{number}.codes"], found.texts(f"text{number}"))
        for number, name in enumerate(found.facts["texts"])
    }
    own = {name.removeprefix(_OWN): coded.pop(name) for name in list(coded) if _OWN in name}
    numbers = {name: found.arrays[name] for name in _NUMBERS}
    return CheckIns(**coded, **numbers, own=own), found.arrays.get("best_prob"), found
