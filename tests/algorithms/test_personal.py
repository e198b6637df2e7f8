"""fedgru/algorithms/fed_per.py, ditto.py and ifca.py, by hand and against federated averaging."""

import numpy as np
import pytest

from fedgru import algorithms, config
from fedgru.algorithms import ClientRule, FedAvg, FedSubAvg
from fedgru.algorithms.ditto import Ditto
from fedgru.algorithms.fed_per import FedPer
from fedgru.algorithms.ifca import Ifca
from fedgru.algorithms.server_optimizers import SGD, Adam
from fedgru.core.errors import ConfigError
from fedgru.training import per_client
from fedgru.training.per_client import PerClientRounds, WholeTable
from tests.algorithms.toy import START, Toy, rounds_of

RULE = ClientRule("sgd", 0.1, 1)
CLIENTS = ((2.0, 0.0, 1, 5), (1.0, -3.0, 2, 5))


def same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def model(training, state, client):
    algorithm, kept = training.per_client.algorithm, training.per_client.store.get(client)
    with WholeTable().of(algorithm.model_of(state.weights, client, kept)) as own:
        return {name: array.copy() for name, array in own.items()}


def test_fed_per_by_hand():
    # w stays: client 0 has 1 - 0.2 = 0.8, then 0.8 - 0.16 = 0.64; client 1 1.38, then 1.38 + 0.162
    # = 1.542 and 1.542 + 0.1458 = 1.6878. The shared w is the start's. Row 2 is averaged.
    algorithm = FedPer(FedSubAvg(SGD(1.0), RULE), ["w"])
    state, training = rounds_of(algorithm, CLIENTS, 2)
    assert state.weights["w"] == 1
    assert model(training, state, 0)["w"] == pytest.approx(0.64)
    assert model(training, state, 1)["w"] == pytest.approx(1.6878)
    averaging, _ = rounds_of(FedSubAvg(SGD(1.0), RULE), CLIENTS, 2)
    np.testing.assert_array_equal(state.weights["rows"], averaging.weights["rows"])
    np.testing.assert_array_equal(model(training, state, 0)["rows"], averaging.weights["rows"])


def test_personal_rows():
    state, training = rounds_of(FedPer(FedSubAvg(SGD(1.0), RULE), ["rows"]), CLIENTS, 1)
    assert state.weights["rows"].ravel().tolist() == [1, 1, 1]
    assert model(training, state, 0)["rows"].ravel() == pytest.approx([0.8, 1, 0.8])
    assert model(training, state, 1)["rows"].ravel() == pytest.approx([1, 1.38, 1.38])
    assert state.weights["rows"].ravel().tolist() == [1, 1, 1]  # lent, not changed


def test_by_default_fed_per_keeps_the_last_layer_of_the_head():
    for head, names in (
        ("dense", ["head_kernel", "head_bias"]),
        ("candidates", ["candidate_output", "candidate_linear", "candidate_kind_bias"]),
    ):
        settings = config.load({"algorithm": "fed-per", "head": head})
        assert list(algorithms.from_settings(settings).personal_weights) == names


def test_fed_per_without_personal_weights_is_averaging_to_the_bit():
    half = FedAvg(SGD(1.0), RULE)
    ours, _ = rounds_of(FedPer(half, []), CLIENTS, 3)
    same_bits(ours.weights, rounds_of(half, CLIENTS, 3)[0].weights)
    with pytest.raises(ConfigError, match="has 'head', which the model has not"):
        FedPer(half, ["head"]).init(START)


def test_ditto_by_hand(monkeypatch):
    monkeypatch.setattr(PerClientRounds, "engine_of", lambda self, rule: Toy(CLIENTS, rule))
    # lambda 2. Round 1 from w = 1: client 0 1 - 0.1 * 2 = 0.8; client 1 1.2, then 1.2 - 0.1 * (-1.8
    # + 2 * 0.2) = 1.34. The shared w is 1 + (-0.2 + 0.38) / 2 = 1.09. Round 2, held near 1.09:
    # client 0 0.8 - 0.1 * (1.6 + 2 * (0.8 - 1.09)) = 0.698.
    half = FedAvg(SGD(1.0), RULE)
    state, training = rounds_of(Ditto(half, 2.0), CLIENTS, 1)
    assert model(training, state, 0)["w"] == pytest.approx(0.8)
    assert model(training, state, 1)["w"] == pytest.approx(1.34)
    state, training = rounds_of(Ditto(half, 2.0), CLIENTS, 2)
    assert model(training, state, 0)["w"] == pytest.approx(0.698)
    same_bits(state.weights, rounds_of(half, CLIENTS, 2)[0].weights)


def test_ditto_with_0_trains_local_models(monkeypatch):
    monkeypatch.setattr(PerClientRounds, "engine_of", lambda self, rule: Toy(CLIENTS, rule))
    state, training = rounds_of(Ditto(FedAvg(SGD(1.0), RULE), 0.0), CLIENTS, 3)
    alone, _ = rounds_of(FedSubAvg(SGD(1.0), RULE), CLIENTS[:1], 3)
    ours = model(training, state, 0)
    ours["rows"][1] = 1  # of client 1 alone: the shared table's
    same_bits(ours, alone.weights)
    with pytest.raises(ValueError, match="ditto_weight is -1"):
        Ditto(FedAvg(SGD(1.0), RULE), -1)


def losses_of(favourites):
    """Losses under which each client prefers the model whose w is nearest to a number."""

    def train_losses(self, weights, clients):
        return {c: abs(float(weights["w"][0]) - favourites[c]) for c in clients}

    return train_losses


def with_second_model(state, value):
    moved = dict(state.weights)
    moved["cluster_1.w"] = np.full(1, value, np.float32)
    return type(state)(moved, state.optimizer, state.round_num)


def test_ifca_by_hand(monkeypatch):
    # Model 1 starts with w = 2, and client 1 prefers it: 2 + 0.1 * 1 = 2.1, then 2.19. Client 0
    # trains model 0: 0.8. Each model moves by its own clients alone.
    monkeypatch.setattr(per_client.OneRound, "train_losses", losses_of({0: 1.0, 1: 2.5}))
    algorithm = Ifca(FedAvg(SGD(1.0), RULE), 2, seed=0)
    start = with_second_model(algorithm.init(START), 2.0)
    state, training = rounds_of(algorithm, CLIENTS, 0)
    state = training.run_round(start, np.array([0, 1])).state
    assert state.weights["w"] == pytest.approx(0.8)
    assert state.weights["cluster_1.w"] == pytest.approx(2.19)
    assert [int(training.per_client.store.get(c)["cluster"]) for c in (0, 1)] == [0, 1]
    assert model(training, state, 1)["w"] == state.weights["cluster_1.w"]
    # a model that nobody trains stays, and so does its optimizer
    alone = training.run_round(start, np.array([0])).state
    assert alone.weights["cluster_1.w"] == 2.0


def test_ifca_keeps_an_optimizer_for_each_model(monkeypatch):
    monkeypatch.setattr(per_client.OneRound, "train_losses", losses_of({0: 1.0, 1: 2.5}))
    algorithm = Ifca(FedAvg(Adam(0.1), RULE), 2, seed=0)
    start = with_second_model(algorithm.init(START), 2.0)
    _, training = rounds_of(algorithm, CLIENTS, 0)
    state = training.run_round(start, np.array([1])).state
    assert (state.optimizer["step"], state.optimizer["cluster_1.step"]) == (0, 1)
    assert state.optimizer["cluster_1.m"]["w"] == pytest.approx(0.1 * 0.19)


def test_ifca_with_one_model_is_averaging_to_the_bit():
    half = FedAvg(SGD(1.0), RULE)
    ours, _ = rounds_of(Ifca(half, 1, seed=0), CLIENTS, 3)
    same_bits(ours.weights, rounds_of(half, CLIENTS, 3)[0].weights)


def test_the_other_start_weights_are_the_same_numbers_in_another_order():
    weights = {"rows": np.arange(12, dtype=np.float32).reshape(4, 3), "w": np.ones(1, np.float32)}
    init = Ifca(FedAvg(SGD(1.0), RULE), 3, seed=1).init(weights).weights
    for cluster in (1, 2):
        rows = init[f"cluster_{cluster}.rows"]
        assert rows.shape == (4, 3) and sorted(rows.ravel()) == list(range(12))
        assert (rows != weights["rows"]).any()
    assert (init["cluster_1.rows"] != init["cluster_2.rows"]).any()
    assert init["rows"] is weights["rows"]


def test_an_update_that_is_not_used_changes_nothing_that_is_kept(monkeypatch):
    class Broken(Toy):
        def local_updates(self, *args, **kwargs):
            for update in super().local_updates(*args, **kwargs):
                if update.client == 0 and args[2] == 2:
                    update.dense["w"] = np.full(1, np.nan, np.float32)
                yield update

    algorithm = FedPer(FedSubAvg(SGD(1.0), RULE), ["rows"])
    training = per_client.PerClientRounds(Broken(CLIENTS, algorithm.client_rule), algorithm)
    from fedgru.training.rounds import run_round

    state = algorithm.init(START)
    for _ in range(2):
        result = run_round(training.engine, algorithm, state, np.array([0, 1]), training)
        state = result.state
    assert result.faults == {"not finite": [0]}
    assert training.store.get(0)["rows"].ravel() == pytest.approx([0.8, 0.8])  # of round 1
    assert training.store.get(1, 1)["rows"] != pytest.approx(training.store.get(1)["rows"])
