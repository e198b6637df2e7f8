"""fedgru/algorithms/centred_clipping.py: rounds by hand, and its centre in checkpoints."""

import numpy as np
import pytest

from fedgru.algorithms.centred_clipping import CentredClipping
from fedgru.algorithms.server_optimizers import SGD
from tests.algorithms.test_algorithms import WEIGHTS, update
from tests.algorithms.test_robust import mean_of

# client 0 (3, 4), client 1 (1, -): bias and row 0, the former's norm is 5
TWO = update(0, 1, 3.0, [0], [4.0]), update(1, 3, 1.0)


def step(algorithm, state, *updates):
    total = algorithm.start(state.weights)
    for one in updates:
        total.add(one)
    after = algorithm.apply(state, total)
    centre = after.optimizer["centre"]
    move = {name: array - state.weights[name] for name, array in after.weights.items()}
    found = ((move[n].ravel().tolist(), centre[n].ravel().tolist()) for n in ("bias", "rows"))
    return after, *found


def test_rounds_by_hand():
    clipping = CentredClipping(SGD(1.0), 2.0)
    state = clipping.init(WEIGHTS)
    # around zero: client 0 times 2 / 5; bias (0.4 * 3 + 3 * 1) / 4, row 0 of its owner 0.4 * 4
    state, (bias, centre), (rows, row_centres) = step(clipping, state, *TWO)
    assert bias == centre == pytest.approx([1.05])
    assert rows == row_centres == pytest.approx([1.6, 0.0, 0.0])
    # around 1.05: a distance of 3, so 1.05 + 2; row 0 has no owner here and keeps its centre
    state, (bias, centre), (rows, row_centres) = step(clipping, state, update(1, 3, 4.05))
    assert bias == pytest.approx([3.05]) and centre == pytest.approx([3.05])
    assert rows == [0.0, 0.0, 0.0] and row_centres == pytest.approx([1.6, 0.0, 0.0])
    # around (3.05, 1.6): a distance of 4 in the row, so half of it
    last = update(0, 1, 3.05, [0], [5.6])
    state, (bias, _), (rows, row_centres) = step(clipping, state, last)
    assert bias == pytest.approx([3.05])
    assert rows == row_centres == pytest.approx([3.6, 0.0, 0.0])
    assert state.round_num == 3
    assert state.weights["bias"].tolist() == pytest.approx([1.05 + 3.05 + 3.05])


def test_rows_over_all_clients():
    clipping = CentredClipping(SGD(1.0), 2.0, owners=False)
    state, (bias, _), (rows, _) = step(clipping, clipping.init(WEIGHTS), *TWO)
    assert bias == pytest.approx([1.05]) and rows == pytest.approx([0.4, 0.0, 0.0])
    # shares c of client 1 alone: row 0 keeps 1 - 2 / 3 of its centre
    _, _, (rows, centre) = step(clipping, state, update(1, 3, 4.05))
    assert rows == centre == pytest.approx([0.4 / 3, 0.0, 0.0])


def test_two_iterations():
    # from (1.05, 1.6): client 0 is sqrt(1.95^2 + 2.4^2) away, client 1 0.05 in the bias it has
    (bias,), rows = mean_of(CentredClipping(SGD(1.0), 2.0, iterations=2), *TWO)
    kept = 2 / np.hypot(1.95, 2.4)
    assert bias == pytest.approx(1.05 + 0.25 * kept * 1.95 - 0.75 * 0.05)
    assert rows == pytest.approx([1.6 + kept * 2.4, 0.0, 0.0])


def test_the_server_optimizer_keeps_its_own_slots():
    clipping = CentredClipping(SGD(1.0, 0.5), 2.0)
    state = clipping.init(WEIGHTS)
    assert sorted(state.optimizer) == ["centre", "velocity"]
    for expected in (1.05, 1.05 / 2 + 3.05):
        client = TWO if expected == 1.05 else (update(1, 3, 4.05),)
        state, (bias, _), _ = step(clipping, state, *client)
        assert bias == pytest.approx([expected])
        assert state.optimizer["velocity"]["bias"].tolist() == pytest.approx([expected])
