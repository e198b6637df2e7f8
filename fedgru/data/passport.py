"""Facts about a data set: its fingerprint, its passport, and a description for people."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedgru.core.types import Floats
from fedgru.core.version import __version__
from fedgru.data.checkins import CheckIns, Coded
from fedgru.data.ledger import Kind, Ledger

FORMAT = 1
OWN = "own:"  # prefix of a kept column's name, so that it differs from all fixed columns
MIN_CHECKINS_FOR_CLOCK = 1000  # with fewer, the quietest hour is random


_Count = Annotated[int, Field(ge=0)]
_Hour = Annotated[int, Field(ge=0, le=23)] | None


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)


class _Kind(_Part):
    kind: str


class _Categories(_Part):
    scheme: str
    sha256: str | None = None


class _Counts(_Part):
    check_ins: Annotated[int, Field(ge=1)]
    users: _Count
    venues: _Count
    categories: _Count
    raw_categories: _Count


class _Span(_Part):
    first: str
    last: str


class _TimeZone(_Part):
    offsets_min: dict[str, _Count]
    busiest_local_hour: _Hour
    quietest_local_hour: _Hour
    warning: str | None


class _Line(_Part):
    kind: Kind
    reason: str
    rows: _Count
    examples: list[_Count]


class _Passport(_Part):
    format: int
    name: str
    source: _Kind
    settings: dict[str, Any]
    categories: _Categories
    counts: _Counts
    own: dict[str, _Count] = {}
    span: _Span
    time_zone: _TimeZone
    ledger: list[_Line]
    fingerprint: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def check_passport(passport: object) -> None:
    """Raise an error unless a dict is a passport as `make_passport` makes it.

    Raises:
        ValueError: names the first part that is missing or wrong.
    """
    try:
        _Passport.model_validate(passport)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "all of it"
        raise ValueError(f"{where}: {first['msg'].lower()}") from None


def fingerprint(check_ins: CheckIns, best_prob: Floats | None = None) -> str:
    """Return the SHA-256 of the columns' content, whatever their file format, 64 hex digits."""
    digest = hashlib.sha256()
    columns: dict[str, Any] = {
        field.name: getattr(check_ins, field.name) for field in fields(check_ins)
    }
    columns |= {f"{OWN}{name}": coded for name, coded in columns.pop("own").items()}
    if best_prob is not None:
        columns["best_prob"] = best_prob
    for name, values in columns.items():
        if isinstance(values, Coded):
            digest.update(json.dumps([name, values.values]).encode())
            values = values.codes
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.array(np.nan, values.dtype), values)  # one NaN
        values = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
        digest.update(f"{name} {values.dtype.str} {len(values)}".encode())
        digest.update(values.data)
    return digest.hexdigest()


def make_passport(
    name: str,
    check_ins: CheckIns,
    best_prob: Floats | None,
    source: Mapping[str, Any],
    settings: Mapping[str, Any],
    categories: Mapping[str, Any],
    ledger: Ledger,
) -> dict[str, Any]:
    """Return the passport; the same check-ins and facts always give the same passport.

    "own" has the kept columns, if there are any, with their numbers of values.

    Args as `fedgru.data.datasets.save_data_set`.
    """
    own = {name: len(coded.values) for name, coded in check_ins.own.items()}
    return {
        "format": FORMAT,
        "name": name,
        "source": source,
        "settings": settings,
        "categories": categories,
        "counts": {
            "check_ins": len(check_ins),
            "users": len(check_ins.user.values),
            "venues": len(check_ins.venue.values),
            "categories": len(check_ins.category.values),
            "raw_categories": len(check_ins.raw_category.values),
        },
        **({"own": own} if own else {}),
        "span": {"first": _utc(check_ins.time_s[0]), "last": _utc(check_ins.time_s[-1])},
        "time_zone": check_time_zone(check_ins),
        "ledger": ledger.to_list(),
        "fingerprint": fingerprint(check_ins, best_prob),
        "fedgru_version": __version__,
    }


def check_time_zone(check_ins: CheckIns) -> dict[str, Any]:
    """Return the offsets from UTC with their counts, and a check that people sleep at night.

    Returns:
        Dict: "offsets_min" (offset in minutes, as text, to number of check-ins),
        "busiest_local_hour" and "quietest_local_hour" (0 to 23; of equal hours the earliest; None
        with fewer than `MIN_CHECKINS_FOR_CLOCK` check-ins), and "warning": a sentence if the
        quietest hour is 7 to 23, when people are awake, else None.
    """
    offsets, counts = np.unique(check_ins.offset_min, return_counts=True)
    busiest = quietest = warning = None
    if len(check_ins) >= MIN_CHECKINS_FOR_CLOCK:
        per_hour = np.bincount(check_ins.local_time_s // 3600 % 24, minlength=24)
        busiest, quietest = int(per_hour.argmax()), int(per_hour.argmin())
    if quietest is not None and quietest >= 7:
        warning = (
            f"The quietest hour of the day is {quietest:02}:00 local time, expected at night. "
            "The offsets from UTC are perhaps wrong or missing."
        )
    return {
        "offsets_min": {str(o): int(n) for o, n in zip(offsets, counts, strict=True)},
        "busiest_local_hour": busiest,
        "quietest_local_hour": quietest,
        "warning": warning,
    }


def _utc(time_s: int) -> str:
    return datetime.fromtimestamp(int(time_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class DescribedDataSet(Protocol):
    """What is described of a `fedgru.data.datasets.DataSet`."""

    @property
    def check_ins(self) -> CheckIns: ...

    @property
    def passport(self) -> dict[str, Any]: ...

    @property
    def best_prob(self) -> Floats | None: ...


def describe(data_set: DescribedDataSet) -> dict[str, Any]:
    """Return a description of a data set, as a dict for JSON.

    Returns:
        The passport and: "check_ins_per_user", percentiles over users from "0" to "100" in steps
        of 10, and their "mean"; "commonest_categories", [category, number of check-ins] of at
        most five; "commonest_own", the same for each kept column, by its name; "box_deg", minimum
        and maximum of latitude and longitude, None without coordinates; and
        "best_possible_accuracy" over all check-ins, None unless the city is made up.
    """
    check_ins = data_set.check_ins
    per_user = np.bincount(check_ins.user.codes)
    percent = range(0, 101, 10)
    quantiles = np.percentile(per_user, percent, method="inverted_cdf")
    box = None
    if not np.isnan(check_ins.lat_deg).all():
        box = {
            column: [float(np.nanmin(degrees)), float(np.nanmax(degrees))]
            for column, degrees in (("lat", check_ins.lat_deg), ("lon", check_ins.lon_deg))
        }
    best = None if data_set.best_prob is None else float(data_set.best_prob.mean(dtype=np.float64))
    return {
        **data_set.passport,
        "check_ins_per_user": {
            **{str(p): int(q) for p, q in zip(percent, quantiles, strict=True)},
            "mean": float(per_user.mean()),
        },
        "commonest_categories": _commonest(check_ins.category),
        "commonest_own": {name: _commonest(coded) for name, coded in check_ins.own.items()},
        "box_deg": box,
        "best_possible_accuracy": best,
    }


def _commonest(coded: Coded) -> list[list[Any]]:
    """Return [value, number of check-ins] of at most five values; ties by first appearance."""
    counts = np.bincount(coded.codes[coded.codes >= 0], minlength=len(coded.values))
    order = np.argsort(-counts, kind="stable")[:5]
    return [[coded.values[i], int(counts[i])] for i in order]
