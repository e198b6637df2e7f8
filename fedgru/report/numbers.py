"""The numbers of a report: accuracy by client, time and place, confusion, calibration.

Pure functions of arrays. The targets are those of one run's test split, each once; `correct` is
whether the class that was ranked first is the target's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.core import metrics
from fedgru.core.types import Bools, Doubles, Ints
from fedgru.data.distances import KM_PER_DEG

OTHERS = "all others"


@dataclass(frozen=True)
class Groups:
    """Accuracy in each group of targets.

    Attributes:
        targets: int64 [num_groups].
        accuracy: float64 [num_groups], NaN in a group without targets.
        low, high: float64 [num_groups], the 95 % interval over clients; NaN if fewer than two
            clients have targets.
    """

    targets: Ints
    accuracy: Doubles
    low: Doubles
    high: Doubles


def group_accuracy(
    correct: Bools,
    groups: Ints,
    num_groups: int,
    client_index: Ints,
    num_clients: int,
    rng: np.random.Generator,
) -> Groups:
    """Return the Groups of some targets.

    Args:
        correct: bool [num_targets].
        groups: int [num_targets], 0 to num_groups - 1; a target of group -1 is in none.
        num_groups: int.
        client_index: int [num_targets].
        num_clients: int.
        rng: numpy Generator, for the bootstrap.
    """
    counts, sums = (
        np.zeros((num_groups, num_clients), np.int64),
        np.zeros((num_groups, num_clients)),
    )
    inside = groups >= 0
    np.add.at(counts, (groups[inside], client_index[inside]), 1)
    np.add.at(sums, (groups[inside], client_index[inside]), correct[inside])
    targets = counts.sum(axis=1)
    accuracy = np.where(targets > 0, sums.sum(axis=1) / np.maximum(targets, 1), np.nan)
    low, high = np.full((2, num_groups), np.nan)
    for group in np.flatnonzero((counts > 0).sum(axis=1) > 1):
        low[group], high[group] = metrics.bootstrap_interval(sums[group], counts[group], rng)
    return Groups(targets, accuracy, low, high)


def hour_of_day(local_time_s: npt.ArrayLike) -> Ints:
    """Return int64, 0 to 23, of seconds on the local clock."""
    return np.asarray(local_time_s) // 3600 % 24


def weekday(local_time_s: npt.ArrayLike) -> Ints:
    """Return int64, 0 (Monday) to 6; the clock's zero, 1970-01-01, was a Thursday.

    >>> weekday([0, 4 * 86400]).tolist()
    [3, 0]
    """
    return (np.asarray(local_time_s) // 86400 + 3) % 7


def deciles(values: Sequence[float] | Doubles) -> Doubles:
    """Return float64 [11]: the 0th, 10th, ... 100th percentile, each one of the values."""
    numbers = np.asarray(values, np.float64)
    return np.percentile(numbers, np.arange(0, 101, 10), method="inverted_cdf")


def activity_groups(checkins: Ints, num_groups: int = 5) -> tuple[Ints, list[tuple[int, int]]]:
    """Put clients into groups of about equal size by their number of check-ins.

    Args:
        checkins: int [num_clients]. Clients with the same number are in one group.
        num_groups: int, at most; fewer if many clients are tied.

    Returns:
        (groups, bounds): int64 [num_clients], and [(fewest, most check-ins)] of each group.

    >>> groups, bounds = activity_groups(np.array([90, 10, 20, 80]), 2)
    >>> groups.tolist(), bounds
    ([1, 0, 0, 1], [(10, 20), (80, 90)])
    """
    shares = np.arange(1, num_groups + 1) / num_groups
    upper = np.unique(np.quantile(checkins, shares, method="inverted_cdf"))
    groups = np.searchsorted(upper, checkins)
    members = [checkins[groups == group] for group in range(len(upper))]
    return groups, [(int(some.min()), int(some.max())) for some in members]


@dataclass(frozen=True)
class Confusion:
    """What was predicted for targets of each of the commonest classes.

    Attributes:
        labels: the rows' classes, commonest target first; if there are more, OTHERS ends it.
        targets: int64 [rows], how many targets each row holds.
        shares: float64 [rows, rows], share of the row's targets for which the column was
            predicted; each row sums to 1.
    """

    labels: tuple[str, ...]
    targets: Ints
    shares: Doubles


def confuse(
    targets: Sequence[str] | npt.NDArray[Any],
    predicted: Sequence[str] | npt.NDArray[Any],
    num_top: int = 10,
) -> Confusion:
    """Return the Confusion of the `num_top` commonest targets; ties go to the first by name.

    Args:
        targets, predicted: str [num_targets].
        num_top: int; all rarer classes become one, OTHERS.
    """
    names, counts = np.unique(np.asarray(targets, str), return_counts=True)
    top = names[np.argsort(-counts, kind="stable")[:num_top]]
    place = {name: i for i, name in enumerate(top)}
    row = np.array([place.get(name, len(top)) for name in targets])
    column = np.array([place.get(name, len(top)) for name in predicted])
    cells = np.zeros((len(top) + 1, len(top) + 1), np.int64)
    np.add.at(cells, (row, column), 1)
    labels = (*top.tolist(), OTHERS)
    if not cells[-1].any() and not cells[:, -1].any():
        cells, labels = cells[:-1, :-1], labels[:-1]
    totals = cells.sum(axis=1)
    return Confusion(labels, totals, cells / np.maximum(totals, 1)[:, None])


@dataclass(frozen=True)
class Reliability:
    """How often the model was right at each level of confidence.

    Attributes:
        targets: int64 [bins], targets whose probability lies in each bin of equal width.
        confidence: float64 [bins], mean probability of the predicted class; NaN in an empty bin.
        accuracy: float64 [bins], share of right predictions; NaN in an empty bin.
        ece: float, expected calibration error: the mean over all targets of the difference between
            accuracy and confidence in their bin.
        left_out: int, targets without a probability.
    """

    targets: Ints
    confidence: Doubles
    accuracy: Doubles
    ece: float
    left_out: int


def reliability(prob: Doubles, correct: Bools, bins: int = 10) -> Reliability | None:
    """Return the Reliability of predictions, or None if none of them has a probability.

    Args:
        prob: float [num_targets], of the predicted class, 0 to 1, NaN where there is none.
        correct: bool [num_targets].
        bins: int; bin b holds b / bins < prob <= (b + 1) / bins, the first one also 0.

    Source: Guo et al. 2017 (arXiv:1706.04599), equations (2) and (3).
    """
    has = ~np.isnan(prob)
    if not has.any():
        return None
    prob, correct = np.asarray(prob)[has], np.asarray(correct)[has]
    at = np.clip(np.ceil(prob * bins).astype(int) - 1, 0, bins - 1)
    targets = np.bincount(at, minlength=bins)
    filled = np.where(targets > 0, targets, np.nan)
    confidence = np.bincount(at, prob, bins) / filled
    accuracy = np.bincount(at, correct, bins) / filled
    ece = float(np.nansum(targets * np.abs(accuracy - confidence)) / len(prob))
    return Reliability(targets, confidence, accuracy, ece, int((~has).sum()))


@dataclass(frozen=True)
class Cells:
    """Squares of a map that hold targets.

    Attributes:
        lat_deg, lon_deg: float64 [num_cells], of the squares' centres.
        targets: int64 [num_cells].
        error_rate: float64 [num_cells], share of wrong predictions.
        side_km: float, of each square.
        outside: int, targets beyond the map or without coordinates.
    """

    lat_deg: Doubles
    lon_deg: Doubles
    targets: Ints
    error_rate: Doubles
    side_km: float
    outside: int


def map_cells(
    lat_deg: Doubles, lon_deg: Doubles, correct: Bools, across: int = 30, beyond: float = 0.01
) -> Cells | None:
    """Return the Cells of some targets, or None if fewer than two places have coordinates.

    The map leaves out a share of `beyond` at each edge, north, south, west and east, so that one
    far journey does not shrink a city to a dot.

    Args:
        lat_deg, lon_deg: float [num_targets], NaN where missing.
        correct: bool [num_targets].
        across: int, squares along the longer side.
        beyond: float.
    """
    has = np.isfinite(lat_deg) & np.isfinite(lon_deg)
    if not has.any():
        return None
    share = [beyond, 1 - beyond]
    (south, north), (west, east) = (
        np.quantile(degrees[has], share, method="nearest") for degrees in (lat_deg, lon_deg)
    )
    km_per_deg_lon = KM_PER_DEG * np.cos(np.radians((south + north) / 2))
    side_km = max((north - south) * KM_PER_DEG, (east - west) * km_per_deg_lon) / across
    if side_km == 0:
        return None
    inside = has & (lat_deg >= south) & (lat_deg <= north) & (lon_deg >= west) & (lon_deg <= east)
    step_lat, step_lon = side_km / KM_PER_DEG, side_km / km_per_deg_lon
    row = np.minimum((lat_deg[inside] - south) // step_lat, across - 1).astype(int)
    column = np.minimum((lon_deg[inside] - west) // step_lon, across - 1).astype(int)
    cells, at, targets = np.unique(row * across + column, return_inverse=True, return_counts=True)
    return Cells(
        lat_deg=south + (cells // across + 0.5) * step_lat,
        lon_deg=west + (cells % across + 0.5) * step_lon,
        targets=targets,
        error_rate=np.bincount(at, ~np.asarray(correct)[inside]) / targets,
        side_km=float(side_km),
        outside=int((~inside).sum()),
    )
