"""fedgru/report/numbers.py: the numbers of a report, worked out by hand."""

import numpy as np
import pytest

from fedgru.data.distances import KM_PER_DEG
from fedgru.report import numbers


def rng():
    return np.random.default_rng(0)


def test_accuracy_of_groups():
    # group 0: clients 0 and 1, 2 of 4 right; group 1: client 1 alone, 1 of 1; group 2: nobody
    found = numbers.group_accuracy(
        correct=np.array([True, False, True, False, True, True]),
        groups=np.array([0, 0, 0, 0, 1, -1]),
        num_groups=3,
        client_index=np.array([0, 0, 1, 1, 1, 0]),
        num_clients=2,
        rng=rng(),
    )
    assert found.targets.tolist() == [4, 1, 0]
    assert found.accuracy.tolist()[:2] == [0.5, 1.0]
    assert np.isnan(found.accuracy[2])
    # both clients have 1 of 2 right, so any draw of the two gives one half
    assert (found.low[0], found.high[0]) == (0.5, 0.5)
    # one client is not a sample of people
    assert np.isnan(found.low[1:]).all()
    assert np.isnan(found.high[1:]).all()


def test_the_interval_is_over_clients_not_check_ins():
    # one client all right, one all wrong: two draws of a client give 0, 1/2 or 1
    correct = np.repeat([True, False], 100)
    client_index = np.repeat([0, 1], 100)
    found = numbers.group_accuracy(correct, np.zeros(200, int), 1, client_index, 2, rng())
    assert (found.accuracy[0], found.low[0], found.high[0]) == (0.5, 0.0, 1.0)


def test_hours_and_weekdays_of_the_local_clock():
    # 2012-04-03 was a Tuesday; 18:00:09 UTC is 14:00:09 in New York
    local_time_s = np.array([1333476009 - 4 * 3600, 1333476009 - 4 * 3600 + 10 * 3600])
    assert numbers.hour_of_day(local_time_s).tolist() == [14, 0]
    assert numbers.weekday(local_time_s).tolist() == [1, 2]


def test_deciles_are_values_that_occur():
    values = np.arange(20)[::-1] / 20
    assert numbers.deciles(values) == pytest.approx(
        [0, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95]
    )


def test_activity_groups_keep_ties_together():
    # thirds of six: the second smallest is 5, the fourth 5, the largest 9; two groups are left
    groups, bounds = numbers.activity_groups(np.array([5, 9, 5, 4, 5, 7]), 3)
    assert bounds == [(4, 5), (7, 9)]
    assert groups.tolist() == [0, 1, 0, 0, 0, 1]


def test_confusion_is_of_the_targets_row():
    targets = ["a", "a", "a", "a", "b", "b", "c", "d"]
    predicted = ["a", "a", "b", "d", "a", "b", "d", "a"]
    found = numbers.confuse(targets, predicted, num_top=2)
    assert found.labels == ("a", "b", "all others")
    assert found.targets.tolist() == [4, 2, 2]
    # of the 4 a: 2 a, 1 b, 1 other; of the 2 b: one each; of c and d: one a, one other
    assert found.shares.tolist() == [[0.5, 0.25, 0.25], [0.5, 0.5, 0], [0.5, 0, 0.5]]


def test_confusion_without_others():
    found = numbers.confuse(["b", "a", "a"], ["b", "b", "b"], num_top=2)
    assert found.labels == ("a", "b")
    assert found.shares.tolist() == [[0, 1], [0, 1]]


def test_a_class_that_is_only_predicted_is_another():
    found = numbers.confuse(["a", "a"], ["a", "z"], num_top=2)
    assert found.labels == ("a", "all others")
    assert found.targets.tolist() == [2, 0]
    assert found.shares.tolist() == [[0.5, 0.5], [0, 0]]


def test_expected_calibration_error():
    # bin (0, 1/2]: given 0.25 and 0.5, one right: |1/2 - 0.375| = 0.125
    # bin (1/2, 1]: given 0.75, 0.75, 1.0, one right: |1/3 - 0.8333| = 0.5
    # (2 * 0.125 + 3 * 0.5) / 5 = 0.35; an unweighted mean would give 0.3125
    prob = np.array([0.25, 0.5, 0.75, 0.75, 1.0, np.nan])
    correct = np.array([True, False, False, False, True, True])
    found = numbers.reliability(prob, correct, bins=2)
    assert found.targets.tolist() == [2, 3]
    assert found.confidence == pytest.approx([0.375, 2.5 / 3])
    assert found.accuracy == pytest.approx([0.5, 1 / 3])
    assert found.ece == pytest.approx(0.35)
    assert found.left_out == 1


def test_an_empty_bin_counts_for_nothing():
    found = numbers.reliability(np.array([0.0, 0.95]), np.array([False, True]))
    assert found.targets.tolist() == [1, 0, 0, 0, 0, 0, 0, 0, 0, 1]
    assert found.ece == pytest.approx((0 + 0.05) / 2)
    assert numbers.reliability(np.array([np.nan]), np.array([True])) is None


def test_cells_of_a_map():
    # on the equator a degree is as long both ways: 4 squares along 4 degrees of longitude
    lat_deg = np.array([0.0, 0.1, 0.9, 0.0, np.nan])
    lon_deg = np.array([0.0, 0.1, 3.9, 4.0, 1.0])
    correct = np.array([True, False, False, False, True])
    found = numbers.map_cells(lat_deg, lon_deg, correct, across=4, beyond=0)
    assert found.side_km == pytest.approx(KM_PER_DEG, rel=1e-3)
    assert found.targets.tolist() == [2, 2]
    assert found.error_rate.tolist() == [0.5, 1.0]
    assert found.lat_deg == pytest.approx([0.5, 0.5], rel=1e-3)
    assert found.lon_deg == pytest.approx([0.5, 3.5], rel=1e-3)
    assert found.outside == 1


def test_squares_are_square_on_the_ground():
    # at 60 degrees north a degree of longitude is half as long: 2 by 1 degrees are a square
    lat_deg, lon_deg = np.array([59.5, 60.5, 59.5]), np.array([10.0, 10.0, 12.0])
    found = numbers.map_cells(lat_deg, lon_deg, np.ones(3, bool), across=2, beyond=0)
    assert found.side_km == pytest.approx(KM_PER_DEG / 2, rel=1e-3)
    assert found.lon_deg == pytest.approx([10.5, 11.5, 10.5], rel=1e-3)


def test_one_far_journey_does_not_shrink_the_map():
    lat_deg = np.append(np.linspace(40, 41, 200), -33.0)
    found = numbers.map_cells(lat_deg, np.full(201, -74.0), np.ones(201, bool), beyond=0.01)
    assert found.lat_deg.min() > 39
    assert found.outside >= 1
    assert found.outside + found.targets.sum() == 201


def test_no_map_of_one_place_or_none():
    here = np.full(3, 40.0)
    assert numbers.map_cells(here, here, np.ones(3, bool)) is None
    assert numbers.map_cells(here * np.nan, here, np.ones(3, bool)) is None
