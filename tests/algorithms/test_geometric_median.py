"""fedgru/algorithms/geometric_median.py: iterations by hand."""

import pytest

from fedgru.algorithms.geometric_median import GeometricMedian
from fedgru.algorithms.server_optimizers import SGD
from tests.algorithms.test_algorithms import update
from tests.algorithms.test_robust import mean_of


def test_one_iteration():
    # mean (0 + 2 * 6 + 10) / 4 = 5.5, distances 5.5, 0.5, 4.5, beta 2/11, 4, 2/9:
    # (24 + 20/9) / (436/99); without the examples the mean would be 16/3 and beta other
    three = update(0, 1, 0.0), update(1, 2, 6.0), update(2, 1, 10.0)
    found = mean_of(GeometricMedian(SGD(1.0), iterations=1), *three)[0]
    assert found == pytest.approx([2596 / 436])
    assert mean_of(GeometricMedian(SGD(1.0), iterations=0), *three)[0] == [5.5]
    # client 1 has half of the weight: it is the median, where the iterations lead
    assert mean_of(GeometricMedian(SGD(1.0), iterations=50), *three)[0] == pytest.approx([6.0])


def test_rows_count_in_the_distances_and_have_the_same_weights():
    # client 0 (0, 4), client 1 (3, 0): bias and row 0. Mean (2, 4/3), distances 10/3 and 5/3,
    # beta 0.3 and 1.2
    two = update(0, 1, 0.0, [0], [4.0]), update(1, 2, 3.0, [1], [0.0])
    for owners, row in ((True, 4.0), (False, 0.8)):
        bias, rows = mean_of(GeometricMedian(SGD(1.0), owners=owners, iterations=1), *two)
        assert bias == pytest.approx([2.4])  # by bias alone: distances 2 and 1, so 2.4 too, but
        assert rows == pytest.approx([row, 0.0, 0.0])
    # with row 0 of both: by bias alone beta 0.5, 2; in all (2, 2): distances 2 * sqrt(2), sqrt(2)
    both = update(0, 1, 0.0, [0], [4.0]), update(1, 2, 3.0, [0], [1.0])
    bias, rows = mean_of(GeometricMedian(SGD(1.0), iterations=1), *both)
    assert bias == pytest.approx([12 / 5]) and rows == pytest.approx([(4 + 4) / 5, 0.0, 0.0])


def test_nu_is_the_smallest_distance():
    # at the mean, 0, lies client 1
    three = update(0, 1, -1.0), update(1, 1, 0.0), update(2, 1, 1.0)
    assert GeometricMedian(SGD(1.0), nu=0.5, iterations=1).factors(three).tolist() == [0.5, 1, 0.5]


def test_a_liar_hardly_counts():
    honest = [update(n, 1, 1.0 + 0.1 * n, [0], [1.0]) for n in range(9)]
    (plain,), _ = mean_of(GeometricMedian(SGD(1.0), iterations=0), *honest, update(9, 1, -1e3))
    (found,), _ = mean_of(GeometricMedian(SGD(1.0)), *honest, update(9, 1, -1e3))
    assert plain < -98 and 0.9 < found < 1.8
