"""Popular nearby: the venues that everybody visits most within a radius of the last check-in.

For the target venue only. In a federation it needs counts per venue that all clients share: each
client would have to send how often it was at which venue.
"""

from collections.abc import Iterator

import numpy as np

from fedgru.core.types import AnyInts, Doubles, Floats, Ints
from fedgru.data.distances import KM_PER_DEG
from fedgru.evaluation.baselines import Counting, frequency_scores

NAME = "popular_nearby"
RADII_KM = (0.25, 0.5, 1.0, 2.0, 5.0)  # validation chooses one


def popular_nearby(counting: Counting, radius_km: float) -> Iterator[Floats]:
    """Everybody's commonest venues within the radius, then everybody's commonest of all.

    A venue lies at the mean of its counted check-ins. A check-in without coordinates lies at its
    venue; where that has none, nothing is nearby.

    Args:
        counting: Counting, its classes venues, with coordinates.
        radius_km: float.

    Yields:
        As the baselines of `fedgru.evaluation.baselines`.
    """
    scores = frequency_scores(counting.everybody(), counting.num_classes)
    venues = np.flatnonzero(scores)
    for _, which, km in _distances_km(counting, venues):
        raised = np.tile(scores, (len(km), 1))
        raised[:, venues] += np.float32(counting.num_classes) * (km <= radius_km)  # NaN is not near
        yield raised[which]


def accuracies(counting: Counting) -> dict[float, float]:
    """Return {radius in km: acc@1 of popular nearby}, each of RADII_KM.

    Args:
        counting: Counting, as for `popular_nearby`; some of its targets are scored.
    """
    scores = frequency_scores(counting.everybody(), counting.num_classes)
    venues = np.argsort(-scores, kind="stable")[: np.count_nonzero(scores)]
    hits, num_targets = dict.fromkeys(RADII_KM, 0), 0
    for own, which, km in _distances_km(counting, venues):
        targets = counting.classes[own]
        num_targets += len(targets)
        for radius_km in RADII_KM if len(venues) else ():
            # the first venue that is near; where none is, the first of all
            first = venues[(km <= radius_km).argmax(axis=1)]
            hits[radius_km] += int((first[which] == targets).sum())
    return {radius_km: number / max(num_targets, 1) for radius_km, number in hits.items()}


def best_radius(counting: Counting) -> float:
    """Return the radius with the highest acc@1 on a Counting's split; among equals the smallest."""
    found = accuracies(counting)
    return max(sorted(found), key=lambda radius_km: found[radius_km])


def _distances_km(counting: Counting, venues: Ints) -> Iterator[tuple[slice, Ints, Doubles]]:
    """Yield for each scored client how far venues are from where it was before each target.

    Yields:
        (slice, its targets; int64 [num_targets], which place each target is predicted from;
        float64 [num_places, num_venues], km on a plane at the place's latitude, NaN unknown).
    """
    lat_deg, lon_deg = counting.lat_deg, counting.lon_deg
    if lat_deg is None or lon_deg is None:
        raise ValueError("popular nearby needs coordinates")
    counted = np.zeros(len(counting.classes), bool)
    for start, end in zip(counting.clients.starts[:-1], counting.counted_ends, strict=True):
        counted[start:end] = True
    located = np.isfinite(lat_deg) & np.isfinite(lon_deg) & (counting.classes >= 0)
    lat, lon = (
        _means(counting.classes[counted & located], values[counted & located], counting.num_classes)
        for values in (lat_deg, lon_deg)
    )
    for _, own in counting.targets():
        before = np.arange(own.start, own.stop) - 1
        here = np.stack([lat_deg[before], lon_deg[before]], axis=1)
        venue = counting.classes[before]
        at_venue = np.where(venue[:, None] < 0, np.nan, np.stack([lat[venue], lon[venue]], axis=1))
        here = np.where(np.isnan(here).any(axis=1, keepdims=True), at_venue, here)
        places, which = np.unique(here, axis=0, return_inverse=True)
        north = lat[venues] - places[:, :1]
        east = np.abs(lon[venues] - places[:, 1:])
        east = np.minimum(east, 360 - east) * np.cos(np.radians(places[:, :1]))
        yield own, which.reshape(-1), KM_PER_DEG * np.sqrt(north * north + east * east)


def _means(venues: AnyInts, values: Doubles, num_classes: int) -> Doubles:
    """Return float64 [num_classes], each venue's mean, NaN where it has no value."""
    number = np.bincount(venues, minlength=num_classes)
    sums = np.bincount(venues, weights=values, minlength=num_classes)
    return np.divide(sums, number, out=np.full(num_classes, np.nan), where=number > 0)
