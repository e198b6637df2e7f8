"""fedgru/algorithms/update_list.py: what robust means compare updates by."""

import pytest

from fedgru.algorithms import update_list
from fedgru.algorithms.update_list import inner_products, norm, rows_by_owners, squared_distances
from tests.algorithms.test_algorithms import update

# client 0 (1, 2, 0), client 1 (2, 3, 4), client 2 (-1, 0, 5): bias, row 0, row 1
THREE = (
    update(0, 1, 1.0, [0], [2.0]),
    update(1, 1, 2.0, [0, 1], [3.0, 4.0]),
    update(2, 1, -1.0, [1], [5.0]),
)


@pytest.mark.parametrize("at_once", [1, 1 << 22])
def test_whole_updates_are_compared(monkeypatch, at_once):
    monkeypatch.setattr(update_list, "VALUES_AT_ONCE", at_once)
    assert inner_products(THREE).tolist() == [[5, 8, -1], [8, 29, 18], [-1, 18, 26]]
    # 0 and 1: 1 + 1 + 16; 0 and 2: 4 + 4 + 25; 1 and 2: 9 + 9 + 1
    assert squared_distances(THREE).tolist() == [[0, 18, 33], [18, 0, 19], [33, 19, 0]]
    assert norm(THREE[1]) == pytest.approx(29**0.5)


def test_rows_of_the_same_number_of_owners_come_together():
    four = (*THREE, update(3, 1, 0.0, [2], [7.0]))
    found = [[part.tolist() for part in group] for group in rows_by_owners(four)]
    assert found == [
        [[2], [[3]], [[[7.0]]]],
        [[0, 1], [[0, 1], [1, 2]], [[[2.0], [3.0]], [[4.0], [5.0]]]],
    ]
