"""Protected concepts of check-ins: what a representation must not reveal.

The label of a position is the label of the last check-in that the state has seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.types import AnyInts, Bools, Doubles

SENSITIVE = ("Medical", "Religion")  # special categories of the GDPR, article 9
COLUMNS = ("category", "raw_category", "venue")
NAMES = ("zone", "weekend", "client", "category-group", "category-group:NAME,NAME")


class CodedColumn(Protocol):
    """A column as codes into its distinct values, -1 where missing: `Coded` of a data set."""

    @property
    def codes(self) -> npt.NDArray[np.int32]: ...

    @property
    def values(self) -> Sequence[str]: ...


class LabelledCheckIns(Protocol):
    """What concepts need of `CheckIns`."""

    @property
    def category(self) -> CodedColumn: ...

    @property
    def own(self) -> Mapping[str, CodedColumn]: ...

    @property
    def lat_deg(self) -> Doubles: ...

    @property
    def lon_deg(self) -> Doubles: ...

    @property
    def local_time_s(self) -> AnyInts: ...


class SplitClients(Protocol):
    """What concepts and protection need of `Clients`."""

    @property
    def client_ids(self) -> Sequence[str]: ...

    @property
    def rows(self) -> AnyInts: ...

    @property
    def client_of(self) -> AnyInts: ...

    def __len__(self) -> int: ...

    def bounds(self, split: str) -> tuple[AnyInts, AnyInts]: ...

    def in_split(self, split: str) -> Bools: ...


@dataclass(frozen=True)
class Concept:
    """One concept at every position of the clients.

    Attributes:
        name: the value of `agnostic_to`.
        labels: int32 [num_positions], -1 where unknown.
        values: names of the values; label i is values[i].
        one_per_client: whether every client has only one value in train, as with `client`. Then no
            client alone can train a head.
    """

    name: str
    labels: npt.NDArray[np.int32]
    values: tuple[str, ...]
    one_per_client: bool

    @property
    def is_client(self) -> bool:
        """Whether the concept is the client itself."""
        return self.name == "client"


def make_concept(
    name: str, check_ins: LabelledCheckIns, clients: SplitClients, zones: int = 12, seed: int = 0
) -> Concept:
    """Label every position with a concept. Zones are fitted on the train splits.

    Args:
        name: zone (the k-means cell of the coordinates), weekend (Saturday or Sunday on the local
            clock), client (who checked in), category-group (whether the category is a sensitive
            one, Medical or Religion, or one of those after a colon), or category, raw_category or
            venue, or a column that was kept at import.
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        zones: number of zones.
        seed: seed of the k-means.

    Returns:
        Concept.

    Raises:
        ConfigError: for an unknown name, or a category that does not occur.
        DataError: if the data lacks what the concept needs, or the concept has fewer than two
            values in train.
    """
    kind, _, rest = name.partition(":")
    labels: npt.ArrayLike
    values: Sequence[str]
    if kind == "zone" and not rest:
        labels, values = zone_labels(check_ins, clients, zones, seed)
    elif kind == "weekend" and not rest:
        day = check_ins.local_time_s[clients.rows] // 86400
        labels, values = (day + 3) % 7 >= 5, ("weekday", "weekend")  # 1970-01-01: a Thursday
    elif kind == "client" and not rest:
        labels, values = clients.client_of, clients.client_ids
    elif kind == "category-group":
        labels, values = _groups(check_ins.category, clients, rest)
    elif kind in COLUMNS and not rest:
        column = getattr(check_ins, kind)
        labels, values = column.codes[clients.rows], column.values
    elif name in check_ins.own:
        column = check_ins.own[name]
        labels, values = column.codes[clients.rows], column.values
    else:
        raise ConfigError(
            f"unknown concept {name!r}. Accepted: {', '.join(NAMES)}, or a column of the data set "
            f"({', '.join([*COLUMNS, *check_ins.own])})."
        )
    labels = np.asarray(labels, np.int32)
    known = clients.in_split("train") & (labels >= 0)
    found = len(np.unique(labels[known]))
    if found < 2:
        raise DataError(
            f"concept {name} has {found} {'value' if found == 1 else 'values'} in train, expected "
            "at least 2: there is nothing to hide."
        )
    owners = clients.client_of[known]
    pairs = np.unique([owners, labels[known]], axis=1).shape[1]
    return Concept(name, labels, tuple(values), pairs == len(np.unique(owners)))


def zone_labels(
    check_ins: LabelledCheckIns, clients: SplitClients, zones: int, seed: int
) -> tuple[AnyInts, list[str]]:
    """Return the k-means cells of the coordinates in km, -1 where missing, and their names."""
    from sklearn.cluster import KMeans

    lat_deg, lon_deg = check_ins.lat_deg[clients.rows], check_ins.lon_deg[clients.rows]
    known = np.isfinite(lat_deg) & np.isfinite(lon_deg)
    train = known & clients.in_split("train")
    places = np.unique(np.stack([lat_deg[train], lon_deg[train]]), axis=1).shape[1]
    if places < zones:
        raise DataError(
            f"concept zone needs {zones} different places with coordinates in train, found "
            f"{places}. Use smaller `zones`."
        )
    km = 111.2  # a degree of latitude
    middle = np.cos(np.radians(lat_deg[train].mean()))
    xy = np.stack([lat_deg * km, lon_deg * km * middle], 1)
    state = int(seeding.rng(seed, "zones").integers(2**31))
    means = KMeans(zones, n_init=4, random_state=state).fit(xy[train])
    labels = np.full(len(xy), -1, np.int32)
    labels[known] = means.predict(xy[known])
    return labels, [f"zone {i}" for i in range(zones)]


def _groups(
    column: CodedColumn, clients: SplitClients, rest: str
) -> tuple[AnyInts, tuple[str, ...]]:
    """Return 1, 2, ... for the named categories, 0 for others, -1 where missing; and names."""
    names = [part.strip() for part in rest.split(",")] if rest else list(SENSITIVE)
    absent = [part for part in names if part not in column.values]
    if absent:
        known = ", ".join(sorted(column.values)) or "none"
        raise ConfigError(
            f"concept category-group: no check-in has the category {absent[0]!r}. The data set's "
            f"are: {known}."
        )
    label_of = np.zeros(len(column.values) + 1, np.int32)
    label_of[-1] = -1  # code -1: missing
    for label, part in enumerate(names, start=1):
        label_of[column.values.index(part)] = label
    return label_of[column.codes[clients.rows]], ("other", *names)
