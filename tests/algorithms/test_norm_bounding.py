"""fedgru/algorithms/norm_bounding.py: two clients by hand."""

import pytest

from fedgru.algorithms.fed_avg import UpdateSum
from fedgru.algorithms.norm_bounding import NormBounding
from fedgru.algorithms.server_optimizers import SGD
from tests.algorithms.test_algorithms import WEIGHTS, update
from tests.algorithms.test_robust import mean_of

# client 0 (3, 4), client 1 (1, -): bias and row 0; norms 5 and 1
TWO = update(0, 1, 3.0, [0], [4.0]), update(1, 3, 1.0)


def test_a_long_update_is_scaled_down_rows_and_all():
    # client 0 counts half of itself: (1.5 + 3 * 1) / 4; by its bias' norm of 3 it would be 2.5
    for owners, row in ((True, 2.0), (False, 0.5)):
        bias, rows = mean_of(NormBounding(SGD(1.0), 2.5, owners=owners), *TWO)
        assert bias == pytest.approx([1.125])
        assert rows == pytest.approx([row, 0.0, 0.0])
    # a norm of just the bound is none too many
    assert mean_of(NormBounding(SGD(1.0), 5.0), *TWO) == ([1.5], [4.0, 0.0, 0.0])


def test_it_is_a_running_sum_also_of_parts():
    rule = NormBounding(SGD(1.0), 2.5)
    whole, part = rule.start(WEIGHTS), rule.start(WEIGHTS, TWO[0].row_ids)
    assert isinstance(whole, UpdateSum)
    part.add(TWO[0])
    whole.add(TWO[1])
    whole.merge(part)
    assert rule.mean_update(whole)["bias"].tolist() == pytest.approx([1.125])
    assert (len(whole), whole.num_examples) == (2, 4)
