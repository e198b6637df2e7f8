"""Popular nearby, worked out by hand with four venues on a line."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.data.distances import KM_PER_DEG
from fedgru.evaluation import baselines, nearby
from fedgru.task.clients import Clients

# venue 0 at 0 km, 1 at 0.8 km, 2 at 1.6 km, 3 at 50 km to the north
KM = np.array([0.0, 0.8, 1.6, 50.0])
VISITS = {  # a: train 0 1, val 3 3 3, test 0 1 2; b: train 2 2 1, val 3, test 0 2
    "a": ([0, 1], [3, 3, 3], [0, 1, 2]),
    "b": ([2, 2, 1], [3], [0, 2]),
}


def count(split="test", missing=()):
    """Return the Counting of VISITS; some positions have no coordinates."""
    sizes = np.array([[len(part) for part in parts] for parts in VISITS.values()])
    starts = np.concatenate([[0], np.cumsum(sizes.sum(axis=1))])
    clients = Clients(
        client_ids=tuple(VISITS),
        rows=np.arange(starts[-1]),
        starts=starts,
        train_ends=starts[:-1] + sizes[:, 0],
        val_ends=starts[:-1] + sizes[:, :2].sum(axis=1),
    )
    classes = np.array([v for parts in VISITS.values() for part in parts for v in part], np.int32)
    lat = 40 + KM[classes] / KM_PER_DEG
    lat[list(missing)] = np.nan
    return baselines.Counting(clients, classes, 4, split, None, lat, np.full(len(lat), -74.0))


def order(counting, radius_km):
    """Return for each client and target the venues, best first; all of them are counted."""
    return [
        [np.argsort(-row, kind="stable").tolist() for row in scores]
        for scores in nearby.popular_nearby(counting, radius_km)
    ]


def test_the_popular_ones_within_the_radius_come_first():
    # train and validation: venue 3 four times, 2 twice, 1 twice (a's, before b's 2), 0 once
    assert order(count(), 1.0) == [
        [
            [3, 1, 2, 0],  # from 3: nothing else is near
            [1, 0, 3, 2],  # from 0: 1 and 0 within 1 km, 1 more often
            [1, 2, 0, 3],  # from 1: all but 3, in the order of their visits
        ],
        [[3, 1, 2, 0], [1, 0, 3, 2]],
    ]
    assert order(count(), 0.5)[0] == [[3, 1, 2, 0], [0, 3, 1, 2], [1, 3, 2, 0]]
    assert order(count(), 100.0)[0] == [[3, 1, 2, 0]] * 3


def test_validation_counts_train_alone():
    # train: 1 twice, 2 twice, 0 once, 3 never: it has no place, and shares the last rank
    (first, *_), _ = nearby.popular_nearby(count("val"), 1.0)
    assert first.tolist() == [1 + 4, 3 + 4, 2 + 4, 0]  # from 1


def test_a_check_in_without_coordinates_lies_at_its_venue():
    # position 5 is a's first test check-in, at 0, from which the second is predicted
    assert order(count(missing=[5]), 1.0) == order(count(), 1.0)
    # position 0 is the only counted check-in at 0: then 0 lies nowhere and is never near
    assert order(count(missing=[0, 5]), 1.0)[0][1] == [3, 1, 2, 0]
    assert order(count(missing=[0]), 1.0)[0][1] == [1, 3, 2, 0]


def test_east_across_the_date_line():
    # at 60 degrees north a degree of longitude is half as long
    counting = count()
    east = 179.995 + KM[counting.classes] / (KM_PER_DEG / 2)
    lon = np.where(east > 180, east - 360, east)
    assert (lon[counting.classes == 0] > 0).all() and (lon[counting.classes == 1] < 0).all()
    moved = replace(counting, lat_deg=np.full(len(lon), 60.0), lon_deg=lon)
    for radius_km in (0.5, 1.0, 100.0):
        assert order(moved, radius_km) == order(counting, radius_km)


def test_without_coordinates_nothing_is_counted():
    with pytest.raises(ValueError, match="needs coordinates"):
        list(nearby.popular_nearby(replace(count(), lat_deg=None), 1.0))


@pytest.mark.parametrize("split", ["val", "test"])
def test_the_radii_are_compared_as_the_metrics_do(split):
    counting = count(split)
    for radius_km, accuracy in nearby.accuracies(counting).items():
        scores = np.concatenate(list(nearby.popular_nearby(counting, radius_km)))
        targets = np.concatenate([counting.classes[own] for _, own in counting.targets()])
        assert accuracy == np.mean(scores.argmax(axis=1) == targets)


def test_the_best_radius_is_the_smallest_of_the_best():
    # on test, 0.25 and 0.5 km: only b's second target, ... none is right; from 1 km
    # a: 3, 1, 1 for 0, 1, 2: one hit; b: 3, 1 for 0, 2: none. Within 0.5 km: 3, 0, 1 and 3, 0.
    assert nearby.accuracies(count()) == {0.25: 0, 0.5: 0, 1.0: 1 / 5, 2.0: 1 / 5, 5.0: 1 / 5}
    assert nearby.best_radius(count()) == 1.0
