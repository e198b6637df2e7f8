"""fedgru/algorithms: means and server optimizers, worked out by hand."""

import numpy as np
import pytest

from fedgru import algorithms
from fedgru.algorithms import server_optimizers
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, UpdateSum
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.server_optimizers import SGD, Adagrad, Adam
from fedgru.config import ServerSettings, Settings
from fedgru.core.errors import TrainingError

WEIGHTS = {"rows": np.zeros((3, 1), np.float32), "bias": np.zeros(1, np.float32)}


def update(client, num_examples, bias, row_ids=(), rows=()):
    return ClientUpdate(
        client=client,
        num_examples=num_examples,
        dense={"bias": np.array([bias], np.float32)},
        row_ids=np.array(row_ids, np.int32),
        row_update=np.array(rows, np.float32).reshape(-1, 1),
        loss_sum=0.0,
        num_correct=0.0,
    )


def sum_of(*updates):
    total = UpdateSum(WEIGHTS)
    for one in updates:
        total.add(one)
    return total


# row 0 is owned by both clients, row 1 by the second alone, row 2 by nobody
TWO = (update(0, 1, 1.0, [0], [2.0]), update(1, 3, 4.0, [0, 1], [6.0, 8.0]))


def test_fed_avg_counts_clients_by_their_examples():
    mean = FedAvg(SGD(1.0)).mean_update(sum_of(*TWO))
    assert mean["bias"].tolist() == [3.25]  # (1 * 1 + 3 * 4) / 4; without the weights 2.5
    assert mean["rows"].ravel().tolist() == [5.0, 6.0, 0.0]  # (2 + 18) / 4, 24 / 4


def test_fed_sub_avg_averages_a_row_over_its_owners():
    mean = FedSubAvg(SGD(1.0)).mean_update(sum_of(*TWO))
    assert mean["bias"].tolist() == [3.25]
    assert mean["rows"].ravel().tolist() == [5.0, 8.0, 0.0]  # row 1: 3 * 8 / 3


def test_cohort_order_changes_nothing():
    forwards, backwards = sum_of(*TWO), sum_of(*TWO[::-1])
    np.testing.assert_array_equal(forwards.rows, backwards.rows)
    np.testing.assert_array_equal(forwards.dense["bias"], backwards.dense["bias"])


def test_updates_that_do_not_fit():
    wrong = ClientUpdate(
        7, 2, {"bias": np.zeros(2, np.float32)}, np.array([], int), np.zeros((0, 1)), 0.0, 0.0
    )
    with pytest.raises(TrainingError) as error:
        sum_of(wrong)
    assert str(error.value) == "client 7 sent bias of shape (2,), expected (1,)."
    with pytest.raises(TrainingError) as error:
        sum_of(update(3, 0, 1.0))
    assert str(error.value) == "client 3 sent an update of no examples."


def two_steps(optimizer, first, second):
    weights = {"w": np.array([1.0], np.float32)}
    slots = optimizer.init(weights)
    for value in (first, second):
        weights, slots = optimizer.apply(weights, {"w": np.array([value], np.float32)}, slots)
    return weights["w"].item()


def test_sgd_and_momentum():
    assert two_steps(SGD(1.0), 0.5, 0.25) == 1.75
    # velocities 0.1 * 0.5 = 0.05, then 0.9 * 0.05 + 0.1 * 0.25 = 0.07
    assert two_steps(SGD(0.1, momentum=0.9), 0.5, 0.25) == pytest.approx(1 + 0.05 + 0.07)


def test_adam_as_keras_computes_it():
    # step 1: m 0.05, v 0.00025, rate sqrt(0.001) / 0.1 -> + 1 * lr
    # step 2: m 0.07, v 0.00031225, rate sqrt(1 - 0.999^2) / (1 - 0.9^2)
    second = np.sqrt(1 - 0.999**2) / (1 - 0.81) * 0.07 / (np.sqrt(0.00031225) + 1e-7)
    assert two_steps(Adam(0.1), 0.5, 0.25) == pytest.approx(1 + 0.1 + 0.1 * second, rel=1e-5)


def test_adam_equals_the_stock_keras_optimizer(monkeypatch):
    import keras

    monkeypatch.setattr(server_optimizers, "BLOCK", 8)  # 21 weights: two blocks and a part of one
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(5, 7, 3)).astype(np.float32)
    variable = keras.Variable(np.zeros((7, 3), np.float32))
    stock = keras.optimizers.Adam(0.06)
    ours, weights = Adam(0.06), {"w": np.zeros((7, 3), np.float32)}
    slots = ours.init(weights)
    for one in updates:
        stock.apply([-one], [variable])  # the pseudo-gradient is minus the update
        weights, slots = ours.apply(weights, {"w": one}, slots)
    np.testing.assert_allclose(weights["w"], np.asarray(variable), rtol=1e-5, atol=1e-7)


def test_yogi_moves_its_second_moment_by_its_own_step():
    # v: 0.001 * 0.25 = 0.00025; then sign(0.00025 - 0.0625) = -1: + 0.001 * 0.0625
    second = np.sqrt(1 - 0.999**2) / (1 - 0.81) * 0.07 / (np.sqrt(0.0003125) + 1e-3)
    first = np.sqrt(0.001) / 0.1 * 0.05 / (np.sqrt(0.00025) + 1e-3)
    found = two_steps(Adam(0.1, yogi=True, epsilon=1e-3), 0.5, 0.25)
    assert found == pytest.approx(1 + 0.1 * first + 0.1 * second, rel=1e-5)


def test_adagrad_adds_up_squares(monkeypatch):
    # v starts at 0.1^2: 0.01 + 0.25 = 0.26, then 0.26 + 0.0625 = 0.3225
    expected = 1 + 0.1 * 0.5 / (np.sqrt(0.26) + 0.1) + 0.1 * 0.25 / (np.sqrt(0.3225) + 0.1)
    assert two_steps(Adagrad(0.1, epsilon=0.1), 0.5, 0.25) == pytest.approx(expected, rel=1e-6)
    # in blocks as in one piece
    weights = {"w": np.zeros((7, 3), np.float32)}
    update = {"w": np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)}
    whole, slots = Adagrad(0.1).apply(weights, update, Adagrad(0.1).init(weights))
    monkeypatch.setattr(server_optimizers, "BLOCK", 8)
    found, parts = Adagrad(0.1).apply(weights, update, Adagrad(0.1).init(weights))
    assert found["w"].tobytes() == whole["w"].tobytes()
    assert parts["v"]["w"].tobytes() == slots["v"]["w"].tobytes()
    # of the first step only the sign matters, while epsilon is small
    np.testing.assert_allclose(whole["w"], 0.1 * np.sign(update["w"]), rtol=0.05)


@pytest.mark.parametrize(
    "settings, algorithm, optimizer",
    [
        ({}, FedSubAvg, SGD(1.0)),
        ({"mean": "clients", "server_lr": 0.5}, FedAvg, SGD(0.5)),
        ({"server_optimizer": "momentum"}, FedSubAvg, SGD(1.0, 0.9)),
        ({"server_optimizer": "momentum", "server_momentum": 0.0}, FedSubAvg, SGD(1.0, 0.0)),
        ({"server_optimizer": "adam"}, FedSubAvg, Adam(1.0)),
        ({"server_optimizer": "adagrad"}, FedSubAvg, Adagrad(1.0, epsilon=1e-3)),
        ({"server_optimizer": "yogi"}, FedSubAvg, Adam(1.0, yogi=True, epsilon=1e-3)),
    ],
)
def test_settings_choose(settings, algorithm, optimizer):
    chosen = algorithms.from_settings(Settings(server=ServerSettings(**settings)))
    assert (type(chosen), chosen.server_optimizer) == (algorithm, optimizer)
