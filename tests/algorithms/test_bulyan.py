"""fedgru/algorithms/bulyan.py: who is chosen, and what counts of them, by hand."""

import numpy as np
import pytest

from fedgru.algorithms.bulyan import Bulyan, around_the_median, choose
from fedgru.algorithms.krum import Krum
from fedgru.algorithms.server_optimizers import SGD
from fedgru.algorithms.update_list import squared_distances
from fedgru.core.errors import ConfigError
from tests.algorithms.test_algorithms import update
from tests.algorithms.test_robust import mean_of


def test_the_values_nearest_to_the_median_count():
    values = np.array([[7.0, -3], [0.0, -1], [2.0, 5], [1.0, -2], [6.0, 4]], np.float32)
    # one liar, five chosen: three values. Median 2: 0, 1, 2, where trimming would take 1, 2, 6;
    # median -1: -3, -2, -1
    assert around_the_median(values, 1, 5).tolist() == [1.0, -2.0]
    # a row of four of them: 4 - 2 * ceil(4 / 5) = 2 values; of 0, 1, 2, 7 the median nearest to
    # zero is 1: 1 and 0 or 2, as near; of -3, -2, -1, 5 it is -1: -2 and -1
    assert around_the_median(values[:4], 1, 5).tolist() == [0.5, -1.5]
    # of two owners nobody would be left: the median nearest to zero
    assert around_the_median(values[:2], 1, 5).tolist() == [0.0, -1.0]
    assert around_the_median(values[:2], 0, 5).tolist() == [3.5, -2.0]


# biases as in the doctest of `choose`; row 0 is owned by 1, 2 and 5, row 1 by 3 and 6
SEVEN = [
    update(0, 1, 0.0),
    update(1, 90, 1.0, [0], [0.1]),
    update(2, 1, 2.0, [0], [0.4]),
    update(3, 1, 3.0, [1], [0.5]),
    update(4, 1, 4.0),
    update(5, 1, 6.0, [0], [0.3]),
    update(6, 1, 50.0, [1], [-70.0]),
]


def test_the_chosen_alone_count():
    # five of seven: 2 first, then of 0, 1, 3, 4, 6 the lowest score by the three nearest
    assert choose(squared_distances(SEVEN), 1).tolist() == [0, 1, 2, 3, 4]
    bias, rows = mean_of(Bulyan(SGD(1.0), 0.1), *SEVEN)
    assert bias == [2.0]  # of 0, 1, 2, 3, 4: 1, 2, 3
    # row 0 has two chosen owners: the one nearer to zero; row 1 has one: its value is the median
    assert rows == pytest.approx([0.1, 0.5, 0.0])


def test_a_coordinate_far_out_does_not_get_through():
    # The liar, client 6, is near everybody in most coordinates and far out in one: Krum takes it.
    draw = np.random.default_rng(0)
    values = draw.normal(size=(7, 400))
    values[6] = 0
    values[6, 0] = 12
    distances = ((values[:, None] - values) ** 2).sum(axis=2)
    assert 6 in choose(distances, 1)
    kept = values[choose(distances, 1)].astype(np.float32)
    assert kept.mean(axis=0)[0] > 1.5
    assert abs(around_the_median(kept, 1, 5)[0]) < 1


def test_too_few_updates_are_told(caplog):
    six = SEVEN[:6]
    bias, _ = mean_of(Bulyan(SGD(1.0), 0.1), *six)
    assert bias == pytest.approx([16 / 6])  # no liar: the mean of all, each counts once
    assert [record.getMessage() for record in caplog.records] == [
        "robust bulyan: 6 updates are enough against 0 malicious clients, not against the 1 that "
        "`liar_share` 0.1 asks for"
    ]
    caplog.clear()
    mean_of(Bulyan(SGD(1.0), 0.1), *SEVEN)
    mean_of(Krum(SGD(1.0), 0.1), *SEVEN)
    assert caplog.records == []


def test_a_cohort_that_is_too_small_is_refused(make_task):
    with pytest.raises(ConfigError) as error:
        make_task(robust="bulyan", liar_share=0.1)
    assert str(error.value) == (
        "`robust` bulyan against 1 malicious clients (`liar_share` 0.1 of 6) needs at least 7 "
        "clients in a round. Use a smaller `liar_share`, or another `robust`."
    )
    make_task(robust="bulyan", liar_share=0.0)
