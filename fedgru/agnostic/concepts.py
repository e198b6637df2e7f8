"""Protected concepts of check-ins: what a representation should not tell about one.

The label of a position is that of the check-in the state has just read.
"""

from dataclasses import dataclass

import numpy as np

from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError

SENSITIVE = ("Medical", "Religion")  # special categories of the GDPR, article 9
COLUMNS = ("category", "raw_category", "venue")
NAMES = ("zone", "weekend", "client", "category-group", "category-group:NAME,NAME")


@dataclass(frozen=True)
class Concept:
    """One concept at every position of the clients.

    Attributes:
        name: as given with --agnostic-to.
        labels: int32 [num_positions], -1 where unknown.
        values: their names; label i is values[i].
        one_per_client: whether no client holds more than one value in train, as of who it is or
            of what it is: no client alone can then learn to tell the values apart.
    """

    name: str
    labels: np.ndarray
    values: tuple[str, ...]
    one_per_client: bool

    @property
    def is_client(self):
        """Whether the concept is who it is."""
        return self.name == "client"


def make_concept(name, check_ins, clients, zones=12, seed=0):
    """Label every position with a concept; what is fitted is fitted on the train splits.

    Args:
        name: zone (the k-means cell of where the check-in was), weekend (Saturday or Sunday on
            the local clock), client (whose it is), category-group (whether it was at a place
            of a sensitive kind, Medical or Religion, or of the kinds named after a colon), or
            category, raw_category or venue, or a column that was kept at import.
        check_ins: CheckIns.
        clients: Clients over these check-ins.
        zones: cells of the zone.
        seed: of the k-means.

    Returns:
        Concept.

    Raises:
        ConfigError: for an unknown name, or a kind of place that does not occur.
        DataError: if the data does not hold what the concept rests on, or it has fewer than two
            values in train.
    """
    kind, _, rest = name.partition(":")
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
            "at least 2: there is nothing to be agnostic to."
        )
    owners = clients.client_of[known]
    pairs = np.unique([owners, labels[known]], axis=1).shape[1]
    return Concept(name, labels, tuple(values), pairs == len(np.unique(owners)))


def zone_labels(check_ins, clients, zones, seed):
    """k-means cells of the coordinates in kilometres; -1 where they are missing."""
    from sklearn.cluster import KMeans

    lat_deg, lon_deg = check_ins.lat_deg[clients.rows], check_ins.lon_deg[clients.rows]
    known = np.isfinite(lat_deg) & np.isfinite(lon_deg)
    train = known & clients.in_split("train")
    places = np.unique(np.stack([lat_deg[train], lon_deg[train]]), axis=1).shape[1]
    if places < zones:
        raise DataError(
            f"concept zone needs {zones} different places with coordinates in train, found "
            f"{places}. Use a smaller --zones."
        )
    km = 111.2  # a degree of latitude
    middle = np.cos(np.radians(lat_deg[train].mean()))
    xy = np.stack([lat_deg * km, lon_deg * km * middle], 1)
    state = int(seeding.rng(seed, "zones").integers(2**31))
    means = KMeans(zones, n_init=4, random_state=state).fit(xy[train])
    labels = np.full(len(xy), -1, np.int32)
    labels[known] = means.predict(xy[known])
    return labels, [f"zone {i}" for i in range(zones)]


def _groups(column, clients, rest):
    """0 for any other kind of place, 1 and on for the named ones; -1 where it is missing."""
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
