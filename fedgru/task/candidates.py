"""Candidates: the classes that a person has been to, and what its own past says of each of them.

The head `candidates` (fedgru/models/candidate_head.py) scores every class that a client has been to
in its last `WINDOW` check-ins, and one "somewhere new", which stands for all other classes. What it
scores them by is computed here, on the client, from its own check-ins up to and including the last
one: nothing of the future enters, and nothing leaves the client.

A candidate's features are of three kinds. Let i be the last check-in and c the candidate:

* a count that earlier check-ins j vote in, each with a weight between 0 and 1: those *followed* by
  c (FOLLOWED, weights by how alike i and j are), and those *at* c (VISITED, weights by when they
  were). With base b_c = (recent frequency of c + 5 shared_c) / (their sum + 5), the feature is
  log((count_c + b_c) / (sum of counts + 1)) - log b_c: how much more than usual;
* when c was visited last, how regularly, and how far away it is (RECENCY);
* what other estimates say: log of b_c, of the shared frequency, of the prior and of back-off counts
  (ESTIMATES).

The context, the same for all candidates, is the clock, the gap, and how much there was to count.

Weights follow a study of New York's validation split; the forms are those of a Nadaraya-Watson
estimate (1964).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints
from fedgru.models.candidate_head import NO_CANDIDATE, Candidates
from fedgru.task.priors import ClientPrior, History

WINDOW = 1024  # check-ins before the last one that are looked at: the cost is linear in a history
MOST_CANDIDATES = 64  # of one prediction; beyond it, those that the prior finds likeliest
BLOCK = 96  # predictions computed at once
SHARED_WEIGHT = 5.0  # check-ins that the shared frequencies count for in the base
HALF_LIFE_S = 15 * 86400.0  # of the frequencies in the base

HOUR_S, DAY_S, MONTH_S = 3600.0, 86400.0, 30 * 86400.0
FORGETTING = 0.43  # per month
KM_PER_DEG = 111.2
FAR_KM = 50.0

# Weights of an earlier check-in j that c followed, as products of similarities to i.
FOLLOWED = {
    "any": ("fade",),
    "category": ("category", "fade"),
    "venue": ("venue", "fade"),
    "category_hour": ("category", "hour", "weekend", "fade"),
    "venue_hour": ("venue", "hour", "fade"),
    "category_pair": ("category", "category_before", "fade"),
    "venue_pair": ("venue", "venue_before", "fade"),
    "hour": ("hour", "weekend", "fade"),
    "sharp_hour": ("sharp_hour", "weekend", "fade"),
    "hour_weekday": ("hour", "weekday", "fade"),
    "near": ("near", "fade"),
    "around_hour": ("around", "hour", "fade"),
    "category_gap": ("category", "gap", "fade"),
    "venue_15_days": ("venue", "half_15"),
    "venue_sharp_hour": ("venue", "sharp_hour", "weekend", "fade"),
    "category_triple": ("category", "category_before", "category_before_that", "fade"),
    "place_in_day_hour": ("place_in_day", "hour", "weekend", "fade"),
    "category_weekday_hour": ("category", "hour", "weekday", "fade"),
    "gap_hour": ("gap", "hour", "weekend", "fade"),
}
# Weights of an earlier check-in j, or i itself, that was at c.
VISITED = {
    "all": ("one",),
    "half_3": ("half_3",),
    "half_15": ("half_15",),
    "half_60": ("half_60",),
    "soon": ("soon", "weekend", "fade"),
    "within_2_hours": ("within_2_hours", "weekend", "fade"),
    "within_8_hours": ("within_8_hours", "weekend", "fade"),
    "soon_weekday": ("soon", "weekday", "fade"),
    "yesterday": ("yesterday",),
    "week_ago": ("week_ago",),
    "today": ("today",),
    "last_10": ("last_10",),
    "last_3": ("last_3",),
    "near": ("near", "fade"),
    "around_soon": ("around", "soon", "weekend", "fade"),
}
RECENCY = (
    "log_hours_since",
    "log_check_ins_since",
    "log_interval",
    "log_overdue",
    "is_last",
    "is_before",
    "is_before_that",
    "log_km_nearest",
    "log_km_mean",
    "log_km_last",
)
ESTIMATES = ("log_base", "log_shared", "log_prior", "log_backoff")
FEATURES = (
    *(f"followed_{name}" for name in FOLLOWED),
    *(f"visited_{name}" for name in VISITED),
    *RECENCY,
    *ESTIMATES,
)
CLOCK = ("sin", "cos", "sin_2", "cos_2", "weekend", "sin_week", "cos_week")
CONTEXT = (*CLOCK, "log_gap", "place_in_day", "log_length") + tuple(
    f"log_total_{name}" for name in FEATURES[: len(FOLLOWED) + len(VISITED)]
)
# What stands for a class that was never visited: its recency, in the order of RECENCY.
NEVER = (10.0, 8.0, 10.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0)


# (shift, scale) that bring a feature to about mean 0 and deviation 1: rounded from New York's train
# split. They are constants, so that no client has to tell its own.
_OF_COUNTS, _OF_FLAGS = (-0.8, 1.3), (0.0, 0.25)
_OF_RECENCY = ((4.5, 2.5), (3.3, 2.0), (5.6, 2.5), (-1.0, 2.0), *[_OF_FLAGS] * 3)
_OF_RECENCY += ((0.6, 2.0), (1.5, 1.5), (1.0, 2.0))
_OF_ESTIMATES = ((-3.7, 1.5), (-3.3, 1.0), (-3.9, 1.7), (-4.7, 2.7))
_NUM_COUNTS = len(FOLLOWED) + len(VISITED)
SHIFTS, SCALES = np.array([*[_OF_COUNTS] * _NUM_COUNTS, *_OF_RECENCY, *_OF_ESTIMATES], np.float32).T
_OF_CLOCK = [*[(0.0, 0.7)] * 4, (0.25, 0.43), *[(0.0, 0.7)] * 2]
CONTEXT_SHIFTS, CONTEXT_SCALES = np.array(
    [*_OF_CLOCK, (1.1, 1.25), (1.0, 0.8), (5.0, 1.1), *[(2.2, 1.2)] * _NUM_COUNTS], np.float32
).T
CONTEXT_LIMIT = 4.0


@dataclass(frozen=True)
class ClientCandidates:
    """The candidates of one client's predictions.

    Attributes:
        candidates: Candidates [num_pairs, ...].
        classes: int32 [num_pairs, 1 + num_candidates]: its class; of "somewhere new" the class that
            is likeliest there by the prior; -1 in padding, and where nowhere is new.
        log_top: float32 [num_pairs], log p(that class, given somewhere new) by the prior.
    """

    candidates: Candidates
    classes: Int32s
    log_top: Floats

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, pairs: slice | AnyInts) -> "ClientCandidates":
        chosen = Candidates(*(array[pairs] for array in self.candidates))
        return ClientCandidates(chosen, self.classes[pairs], self.log_top[pairs])

    def places(self, targets: AnyInts) -> Int32s:
        """Return int32 [num_pairs], which candidate each target class is; 0: somewhere new."""
        is_target = self.classes[:, 1:] == np.asarray(targets)[:, None]
        return np.where(is_target.any(axis=1), 1 + is_target.argmax(axis=1), 0).astype(np.int32)


@dataclass(frozen=True)
class _Past:
    """A client's check-ins as similarities are computed from, all arrays [n].

    A difference of two check-ins does not depend on how many others there are.
    """

    classes: Int32s
    codes: dict[str, Int32s]  # what is compared for equality; missing ones equal none
    time_s: Ints
    hour: Floats
    cos: Floats
    sin: Floats
    day: Ints
    lat_deg: Doubles
    lon_deg: Doubles
    narrowing: Floats  # of a degree of longitude
    located: Bools
    log_gap: Floats
    clock: Floats  # [n, len(CLOCK)]

    @classmethod
    def of(cls, history: History) -> "_Past":
        day = history.local_time_s // 86400
        weekday = (day + 3) % 7  # 1970-01-01 was a Thursday
        gap_h = np.diff(history.time_s, prepend=history.time_s[:1]) / HOUR_S
        turn, week = 2 * np.pi * history.local_hour / 24, 2 * np.pi * weekday / 7
        lat_deg, lon_deg = history.lat_deg, history.lon_deg
        located = np.isfinite(lat_deg) & np.isfinite(lon_deg)
        lat_deg, lon_deg = (np.where(located, v, 0.0) for v in (lat_deg, lon_deg))
        before = {}
        for name, values in (("category", history.categories), ("venue", history.venues)):
            before[f"{name}_before"] = _shifted(values, 1)
        codes = {
            "category": history.categories,
            "venue": history.venues,
            **before,
            "category_before_that": _shifted(history.categories, 2),
            "weekday": weekday,
            "weekend": history.weekend,
            "place_in_day": _place_in_day(day),
            "day": day,
        }
        clock = [np.sin(turn), np.cos(turn), np.sin(2 * turn), np.cos(2 * turn)]
        clock += [history.weekend.astype(float), np.sin(week), np.cos(week)]
        as_float = {
            "hour": history.local_hour,
            "cos": np.cos(turn),
            "sin": np.sin(turn),
            "narrowing": np.cos(np.radians(lat_deg)),
            "log_gap": np.log1p(np.maximum(gap_h, 0)),
            "clock": np.stack(clock, axis=1),
        }
        return cls(
            classes=history.classes,
            codes={name: np.asarray(values, np.int32) for name, values in codes.items()},
            time_s=history.time_s,
            day=day,
            lat_deg=lat_deg,
            lon_deg=lon_deg,
            located=located,
            **{name: values.astype(np.float32) for name, values in as_float.items()},
        )


def client_candidates(
    history: History,
    shared: Doubles,
    prior: ClientPrior,
    backoff: ClientPrior,
    kinds_by_class: bool = True,
    first: int = 0,
) -> ClientCandidates:
    """Return the candidates of a client's predictions.

    Args:
        history: History of n check-ins.
        shared: float64 [num_classes], frequencies of all clients.
        prior: ClientPrior of the run, whose last row predicts the last check-in.
        backoff: the same, of back-off counts.
        kinds_by_class: whether the kind of a candidate is its class; otherwise all that were
            visited are of one kind.
        first: leave out the predictions of the check-ins up to and including this one.

    Returns:
        ClientCandidates with n - 1 - first rows; row j predicts check-in first + j + 1.
    """
    past = _Past.of(history)
    support = prior.support
    width = min(len(support), MOST_CANDIDATES)
    num_pairs = len(history) - 1 - first
    estimates = _Estimates(support, shared, prior, backoff)
    found = ClientCandidates(
        Candidates(
            features=np.zeros((num_pairs, 1 + width, len(FEATURES)), np.float32),
            context=np.empty((num_pairs, len(CONTEXT)), np.float32),
            log_prior=np.full((num_pairs, 1 + width), NO_CANDIDATE, np.float32),
            kinds=np.zeros((num_pairs, 1 + width), np.int32),
        ),
        np.full((num_pairs, 1 + width), -1, np.int32),
        np.zeros(num_pairs, np.float32),
    )
    offset = len(history) - 1 - len(prior.log_rest)  # of the priors' rows
    for start in range(0, num_pairs, BLOCK):
        part = slice(start, min(start + BLOCK, num_pairs))
        rows = np.arange(part.start, part.stop) + first
        block = _look_back(past, rows, support)
        _fill(found[part], past, rows, block, estimates, rows - offset, kinds_by_class)
    return found


def _shifted(values: AnyInts, by: int) -> AnyInts:
    """Return the values of the check-ins `by` before; -1 where there is none."""
    return np.concatenate([np.full(min(by, len(values)), -1), values[: max(len(values) - by, 0)]])


def _place_in_day(day: Ints) -> Ints:
    """Return int64 [n], how many check-ins there were before on the same day."""
    begins = np.flatnonzero(np.diff(day, prepend=day[:1] - 1))
    lengths = np.diff(np.append(begins, len(day)))
    return np.arange(len(day)) - np.repeat(begins, lengths)


@dataclass(frozen=True)
class _Block:
    """What some rows see of the past, float32 over the client's support unless said otherwise.

    Attributes:
        counts: [num_weights, rows, num_own], FOLLOWED and then VISITED.
        totals: [num_weights, rows].
        recency: [len(RECENCY), rows, num_own].
    """

    counts: Floats
    totals: Floats
    recency: Floats

    @property
    def visits(self) -> Floats:
        """[rows, num_own], check-ins there within the window."""
        return self.counts[len(FOLLOWED) + list(VISITED).index("all")]


def _look_back(past: _Past, rows: Ints, support: Int32s) -> _Block:
    lowest, last = max(0, int(rows[0]) - WINDOW + 1), int(rows[-1])
    num_weights, num_own = len(FOLLOWED) + len(VISITED), len(support)
    counts = np.zeros((num_weights, len(rows), num_own), np.float32)
    recency = np.empty((len(RECENCY), len(rows), num_own), np.float32)
    recency[...] = np.array(NEVER, np.float32)[:, None, None]
    columns = np.arange(lowest, last + 1)

    follows = columns[:-1][past.classes[columns[1:]] >= 0]
    order = np.argsort(past.classes[follows + 1], kind="stable")
    if len(follows):
        sums = _Sums(follows[order], past.classes[follows[order] + 1], support)
        alike = _Similarities(past, rows, sums.columns, 0)
        for place, factors in enumerate(FOLLOWED.values()):
            sums.add_to(counts[place], alike.product(factors))
    visits = columns[past.classes[columns] >= 0]
    order = np.argsort(past.classes[visits], kind="stable")
    if len(visits):
        sums = _Sums(visits[order], past.classes[visits[order]], support)
        alike = _Similarities(past, rows, sums.columns, 1)
        for place, factors in enumerate(VISITED.values(), len(FOLLOWED)):
            sums.add_to(counts[place], alike.product(factors))
        _fill_recency(recency, past, rows, sums, alike, counts[len(FOLLOWED)])
    for place, ago in enumerate(range(3), RECENCY.index("is_last")):
        before = _shifted(past.classes, ago)[rows]
        recency[place] = support == before[:, None]
    return _Block(counts, counts.sum(axis=2), recency)


class _Sums:
    """Columns sorted by class, so that what belongs to one class is summed in one go.

    Args:
        columns: int64 [num_columns], check-ins.
        classes: int32 [num_columns], ascending.
        support: int32 [num_own].
    """

    def __init__(self, columns: Ints, classes: Int32s, support: Int32s) -> None:
        self.columns = columns
        self.starts = np.flatnonzero(np.diff(classes, prepend=classes[0] - 1))
        self.own = np.searchsorted(support, classes[self.starts])

    def add_to(self, counts: Floats, weights: Floats) -> None:
        """Write the sums of weights [rows, num_columns] to counts [rows, num_own]."""
        counts[:, self.own] = np.add.reduceat(weights, self.starts, axis=1)


class _Similarities:
    """How alike rows are to earlier columns, each computed when it is asked for, and kept.

    Args:
        past: _Past.
        rows: int64 [num_rows], the check-ins from which is predicted.
        columns: int64 [num_columns], earlier check-ins.
        own: 1 if a row is counted among its earlier check-ins, else 0.
    """

    def __init__(self, past: _Past, rows: Ints, columns: Ints, own: int) -> None:
        self._past, self._rows, self._columns = past, rows, columns
        self.age = (rows[:, None] - columns).astype(np.int32)
        self.seen = ((self.age >= 1 - own) & (self.age < WINDOW)).astype(np.float32)
        self._found: dict[str, Floats] = {}

    def product(self, factors: tuple[str, ...]) -> Floats:
        """Return the product of some similarities, float32 [num_rows, num_columns]."""
        first, *others = (self[name] for name in factors)
        product = first
        for other in others:
            product = product * other if product is first else np.multiply(product, other, product)
        return product

    def __getitem__(self, name: str) -> Floats:
        if name not in self._found:
            self._found[name] = self._compute(name)
        return self._found[name]

    def _compute(self, name: str) -> Floats:
        match name:
            case "one":
                return self.seen
            case "fade":
                return np.exp(self["seconds"] * np.float32(-FORGETTING / MONTH_S)) * self.seen
            case "half_3" | "half_15" | "half_60":
                rate = np.log(0.5) / DAY_S / int(name.removeprefix("half_"))
                return np.exp(self["seconds"] * np.float32(rate)) * self.seen
            case "seconds":
                time_s = self._past.time_s
                return (time_s[self._rows, None] - time_s[self._columns]).astype(np.float32)
            case "weekend":
                return self._equal(name, 0.25)
            case "hour" | "sharp_hour":
                cos = self._outer(self._past.cos, np.multiply)
                cos += self._outer(self._past.sin, np.multiply)
                cos -= 1
                return np.exp(cos * np.float32(4 if name == "hour" else 12))
            case "gap":
                difference = self._outer(self._past.log_gap, np.subtract)
                return np.exp(-2 * difference * difference)
            case "soon":
                return np.exp(self["hours_ahead"] * np.float32(-0.25))
            case "within_2_hours" | "within_8_hours":
                limit = int(name.split("_")[1])
                return (self["hours_ahead"] < limit).astype(np.float32)
            case "hours_ahead":
                ahead = -self._outer(self._past.hour, np.subtract)
                ahead += np.float32(24) * (ahead < 0)
                return ahead
            case "yesterday" | "week_ago":
                until = DAY_S * (1 if name == "yesterday" else 7)
                seconds = self["seconds"]
                return ((seconds <= until) & (seconds >= until - 6 * HOUR_S)) * self.seen
            case "today":
                return self._equal("day") * self.seen
            case "last_10" | "last_3":
                return (self.age < int(name.removeprefix("last_"))) * self.seen
            case "near" | "around":
                return np.exp(
                    self["squared_km"] * np.float32(-0.5 / (0.09 if name == "near" else 1))
                )
            case "squared_km":
                past = self._past
                north = self._km(past.lat_deg)
                east = self._km(past.lon_deg)
                east *= past.narrowing[self._rows, None]
                squared = np.minimum(north * north + east * east, FAR_KM**2)
                located = past.located
                if not located.all():
                    both = located[self._rows, None] & located[self._columns]
                    apart = np.where(self._equal("venue"), np.float32(0), np.float32(FAR_KM**2))
                    squared = np.where(both, squared, apart)
                return squared
        return self._equal(name)

    def _km(self, degrees: Doubles) -> Floats:
        apart = degrees[self._rows, None] - degrees[self._columns]  # metres need all digits
        return (KM_PER_DEG * apart).astype(np.float32)

    def _outer(self, values: Floats, operation: Any) -> Floats:
        return operation(values[self._rows, None], values[self._columns])

    def _equal(self, name: str, otherwise: float = 0.0) -> Floats:
        codes = self._past.codes[name]
        now = codes[self._rows]
        equal = np.where(now < 0, -2, now)[:, None] == codes[self._columns]
        if otherwise:
            return np.where(equal, np.float32(1), np.float32(otherwise))
        return equal.astype(np.float32)


def _fill_recency(
    recency: Floats, past: _Past, rows: Ints, sums: _Sums, alike: _Similarities, visits: Floats
) -> None:
    """Write all but `is_...` of RECENCY, where a class was visited."""
    columns = sums.columns.astype(np.int32)
    seen = alike.seen > 0
    last = np.maximum.reduceat(np.where(seen, columns, -1), sums.starts, axis=1)
    first = np.minimum.reduceat(np.where(seen, columns, len(past.classes)), sums.starts, axis=1)
    there = last >= 0
    last, first = np.where(there, last, 0), np.where(there, first, 0)
    count = np.maximum(visits[:, sums.own], 1)
    since_h = (past.time_s[rows, None] - past.time_s[last]) / HOUR_S
    between_h = (past.time_s[last] - past.time_s[first]) / HOUR_S / np.maximum(count - 1, 1)
    between_h = np.where(count > 1, between_h, 9999.0)
    km = np.sqrt(alike["squared_km"])
    place_of = np.zeros(int(columns.max()) + 1, np.int64)
    place_of[columns] = np.arange(len(columns))
    nearest = np.minimum.reduceat(np.where(seen, km, np.float32(99)), sums.starts, axis=1)
    mean = np.add.reduceat(km * alike.seen, sums.starts, axis=1) / count
    values = {
        "log_hours_since": np.log1p(since_h),
        "log_check_ins_since": np.log1p(rows[:, None] - last),
        "log_interval": np.log1p(between_h),
        "log_overdue": np.clip(np.log((since_h + 1) / (between_h + 1)), -6.0, 4.0),
        "log_km_nearest": np.log(0.05 + nearest),
        "log_km_mean": np.log(0.05 + mean),
        "log_km_last": np.log(0.05 + np.take_along_axis(km, place_of[last], axis=1)),
    }
    for name, found in values.items():
        place = RECENCY.index(name)
        recency[place][:, sums.own] = np.where(there, found, NEVER[place])


class _Estimates:
    """What the prior and other estimates say of the classes of the support, and of the rest."""

    def __init__(
        self, support: Int32s, shared: Doubles, prior: ClientPrior, backoff: ClientPrior
    ) -> None:
        if not np.array_equal(prior.support, backoff.support):
            raise ValueError("the two priors are not of the same check-ins")
        self.support, self.shared, self.prior, self.backoff = support, shared, prior, backoff
        others = np.delete(shared, support)
        self._others = {power: float((others**power).sum()) for power in (prior.power, 1.0)}
        is_other = np.ones(len(shared), bool)
        is_other[support] = False
        self.top_other = int(np.where(is_other, shared, -1).argmax()) if is_other.any() else -1

    def probs(self, prior: ClientPrior, pairs: Ints) -> tuple[Doubles, Doubles]:
        """Return float64 p [rows, num_own], and the sum of all other classes' p [rows]."""
        others = self._others[prior.power] * np.exp(prior.log_rest[pairs].astype(np.float64))
        return np.exp(prior.log_own[pairs].astype(np.float64)), others


def _fill(
    found: ClientCandidates,
    past: _Past,
    rows: Ints,
    block: _Block,
    estimates: _Estimates,
    pairs: Ints,
    kinds_by_class: bool,
) -> None:
    """Write the candidates of some rows; `pairs` are the rows of the priors."""
    support, shared = estimates.support, estimates.shared
    prior, other_prior = estimates.probs(estimates.prior, pairs)
    backoff, other_backoff = estimates.probs(estimates.backoff, pairs)
    visited = block.visits > 0
    width = found.classes.shape[1] - 1
    if len(support) > width:
        own = np.argsort(np.where(visited, -prior, 1.0), axis=1, kind="stable")[:, :width]
        own.sort(axis=1)
    else:
        own = np.broadcast_to(np.arange(width), (len(rows), width))
    chosen = np.take_along_axis(visited, own, axis=1)
    is_candidate = np.zeros_like(visited)
    np.put_along_axis(is_candidate, own, chosen, axis=1)

    def new(of_own: Doubles, others: Doubles | float) -> Doubles:
        """Sum over the classes that are no candidates."""
        return np.where(is_candidate, 0.0, of_own).sum(axis=1) + others

    recent = block.counts[len(FOLLOWED) + list(VISITED).index("half_15")]
    total = block.totals[len(FOLLOWED) + list(VISITED).index("half_15")][:, None] + SHARED_WEIGHT
    own_shared = np.broadcast_to(shared[support], visited.shape)
    base = (recent + SHARED_WEIGHT * own_shared) / total
    new_shared = new(own_shared, max(1.0 - float(shared[support].sum()), 0.0))
    new_base = (
        new(base, 0.0) + SHARED_WEIGHT * max(1.0 - float(shared[support].sum()), 0.0) / total[:, 0]
    )
    new_prior, new_backoff = new(prior, other_prior), new(backoff, other_backoff)

    candidates, tiny = found.candidates, 1e-9
    log_totals = np.log1p(block.totals)
    num_weights = len(log_totals)
    base_of = np.take_along_axis(base, own, axis=1).astype(np.float32)
    for place in range(num_weights):
        counts = np.take_along_axis(block.counts[place], own, axis=1)
        ratio = np.log1p(counts / base_of) - log_totals[place][:, None]
        candidates.features[:, 1:, place] = ratio
        candidates.features[:, 0, place] = -log_totals[place]
    for place, values in enumerate(block.recency):
        candidates.features[:, 1:, num_weights + place] = np.take_along_axis(values, own, axis=1)
        candidates.features[:, 0, num_weights + place] = NEVER[place]
    pairs_of = (
        (base, new_base),
        (own_shared, new_shared),
        (prior, new_prior),
        (backoff, new_backoff),
    )
    for place, (of_own, of_new) in enumerate(pairs_of, num_weights + len(RECENCY)):
        values = np.log(np.maximum(np.take_along_axis(of_own, own, axis=1), tiny))
        candidates.features[:, 1:, place] = values
        candidates.features[:, 0, place] = np.log(np.maximum(of_new, tiny))
    candidates.features[...] = (candidates.features - SHIFTS) / SCALES
    candidates.features[:, 1:][~chosen] = 0

    log_prior = np.log(np.take_along_axis(prior, own, axis=1))
    candidates.log_prior[:, 1:] = np.where(chosen, log_prior, NO_CANDIDATE)
    anything_new = new(np.ones_like(prior), len(shared) - len(support)) > 0
    candidates.log_prior[:, 0] = np.where(
        anything_new, np.log(np.maximum(new_prior, 1e-30)), NO_CANDIDATE
    )
    classes = np.where(chosen, support[own], -1)
    found.classes[:, 1:] = classes
    candidates.kinds[:, 1:] = (classes + 1) if kinds_by_class else chosen

    best = np.where(is_candidate, -1.0, prior)
    top = best.argmax(axis=1) if len(support) else np.zeros(len(rows), np.int64)
    top_prob = best.max(axis=1, initial=-1.0)
    if estimates.top_other >= 0:
        rest = np.exp(estimates.prior.log_rest[pairs].astype(np.float64))
        of_other = rest * shared[estimates.top_other] ** estimates.prior.power
        top_class = np.where(of_other > top_prob, estimates.top_other, _of(support, top))
        top_prob = np.maximum(of_other, top_prob)
    else:
        top_class = _of(support, top)
    found.classes[:, 0] = np.where(anything_new, top_class, -1)
    found.log_top[:] = np.log(np.maximum(top_prob, 1e-30)) - np.log(np.maximum(new_prior, 1e-30))

    places = np.minimum(past.codes["place_in_day"][rows], 6) / 3
    log_length = np.log1p(np.minimum(rows, WINDOW))
    context = [*past.clock[rows].T, past.log_gap[rows], places, log_length, *log_totals]
    standard = (np.stack(context, axis=1) - CONTEXT_SHIFTS) / CONTEXT_SCALES
    candidates.context[...] = np.clip(standard, -CONTEXT_LIMIT, CONTEXT_LIMIT)


def _of(support: Int32s, places: Ints) -> Int32s:
    return support[places] if len(support) else np.full(len(places), -1, np.int32)
