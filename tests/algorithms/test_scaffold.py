"""fedgru/algorithms/scaffold.py, by hand and against federated averaging."""

import numpy as np
import pytest

from fedgru.algorithms import ClientRule, FedAvg, FedSubAvg
from fedgru.algorithms.scaffold import Scaffold
from fedgru.algorithms.server_optimizers import SGD
from tests.algorithms.toy import rounds_of

RULE = ClientRule("sgd", 0.1, 1)
# gradients 2w and w - 3; 1 and 2 local steps; the same number of examples
CLIENTS = ((2.0, 0.0, 1, 5), (1.0, -3.0, 2, 5))


def test_two_rounds_of_two_clients_by_hand():
    # Round 1, c = c_0 = c_1 = 0, w = 1. Client 0: 1 - 0.1 * 2 = 0.8, update -0.2, so c_0 =
    # 0.2 / (1 * 0.1) = 2. Client 1: 1 + 0.1 * 2 = 1.2, 1.2 + 0.1 * 1.8 = 1.38, update 0.38, so
    # c_1 = -0.38 / (2 * 0.1) = -1.9. Mean update 0.09: w = 1.09; c = (2 - 1.9) / 2 = 0.05.
    state, training = rounds_of(Scaffold(FedAvg(SGD(1.0), RULE)), CLIENTS, 1)
    assert state.weights["w"] == pytest.approx(1.09)
    assert state.optimizer["control"]["w"] == pytest.approx(0.05, abs=1e-6)
    assert training.per_client.store.get(0)["w"] == pytest.approx(2.0)
    assert training.per_client.store.get(1)["w"] == pytest.approx(-1.9)
    # Round 2. Client 0: gradient 2.18 - 2 + 0.05 = 0.23, update -0.023. Client 1: gradients
    # 1.09 - 3 + 1.9 + 0.05 = 0.04, at 1.086: 0.036; update -0.0076. Mean -0.0153: w = 1.0747.
    # c_0 = 2 - 0.05 + 0.23 = 2.18, c_1 = -1.9 - 0.05 + 0.038 = -1.912, c = 0.05 + (0.18 - 0.012)/2
    state, training = rounds_of(Scaffold(FedAvg(SGD(1.0), RULE)), CLIENTS, 2)
    assert state.weights["w"] == pytest.approx(1.0747)
    assert training.per_client.store.get(0)["w"] == pytest.approx(2.18)
    assert training.per_client.store.get(1)["w"] == pytest.approx(-1.912)
    assert state.optimizer["control"]["w"] == pytest.approx(0.134, abs=1e-6)


def test_rows_are_controlled_as_the_server_half_averages_them():
    # Row 0 has one owner, client 0. Over owners c = c_0 = 2: no correction in round 2, so the row
    # goes 1, 0.8, 0.64. Over all clients c = c_0 / 2 = 1 and the row moves half as far: round 1 to
    # 0.9; in round 2 the gradient is 1.8 - 2 + 1 = 0.8, half of 0.08 is 0.04: 0.86.
    owners, _ = rounds_of(Scaffold(FedSubAvg(SGD(1.0), RULE)), CLIENTS, 2)
    assert owners.weights["rows"][0] == pytest.approx(0.64)
    assert owners.optimizer["owners"]["rows"].tolist() == [1, 1, 2]
    clients, _ = rounds_of(Scaffold(FedAvg(SGD(1.0), RULE)), CLIENTS, 2)
    assert clients.weights["rows"][0] == pytest.approx(0.86)
    # row 2 is owned by both, as `w` is
    assert owners.weights["rows"][2] == pytest.approx(owners.weights["w"])


def test_a_client_that_comes_late_changes_the_mean_over_owners():
    # Row 2: only client 0 in round 1, c = c_0 = 2 after it. In round 2 client 1 comes with c_1 =
    # 0: c must become the mean of both, whatever client 1's new control is.
    algorithm = Scaffold(FedSubAvg(SGD(1.0), RULE))
    state, training = rounds_of(algorithm, CLIENTS, 2, cohorts=[[0], [1]])
    kept = [training.per_client.store.get(c)["rows"][1] for c in (0, 1)]
    assert state.optimizer["control"]["rows"][2] == pytest.approx(np.mean(kept))
    # over all clients N counts those that have not come yet: c_0 / 2 after round 1
    first, _ = rounds_of(Scaffold(FedAvg(SGD(1.0), RULE)), CLIENTS, 1, cohorts=[[0]])
    assert first.optimizer["control"]["w"] == pytest.approx(1.0)


def test_round_1_and_single_clients_are_averaging_to_the_bit():
    half = FedAvg(SGD(1.0), RULE)
    for clients, num in ((CLIENTS, 1), (CLIENTS[:1], 4)):
        ours, _ = rounds_of(Scaffold(half), clients, num)
        averaging, _ = rounds_of(half, clients, num)
        for name, array in averaging.weights.items():
            np.testing.assert_array_equal(ours.weights[name], array)


def test_the_denominator_counts_steps_not_epochs():
    """With the steps of one epoch as the denominator the control of client 1 would be doubled."""
    rule = ClientRule("sgd", 0.1, 2)  # two epochs of one step, for client 1
    _, training = rounds_of(Scaffold(FedAvg(SGD(1.0), rule)), CLIENTS, 1)
    assert training.per_client.store.get(1)["w"] == pytest.approx(-1.9)


def test_adam_is_refused():
    with pytest.raises(ValueError, match="needs clients with optimizer sgd, not adam"):
        Scaffold(FedAvg(SGD(1.0)))
