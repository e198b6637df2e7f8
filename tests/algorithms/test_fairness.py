"""fedgru/algorithms/q_fed_avg.py and agnostic_fl.py, by hand and against federated averaging."""

import numpy as np
import pytest

from fedgru.algorithms import ClientRule, FedAvg, FedSubAvg
from fedgru.algorithms.agnostic_fl import AgnosticFL, project_to_simplex
from fedgru.algorithms.q_fed_avg import QFedAvg
from fedgru.algorithms.server_optimizers import SGD
from fedgru.training import per_client
from tests.algorithms.toy import rounds_of

RULE = ClientRule("sgd", 0.1, 1)
CLIENTS = ((2.0, 0.0, 1, 3), (1.0, -3.0, 2, 1))
LOSSES = {0: 2.0, 1: 0.5}


@pytest.fixture(autouse=True)
def known_losses(monkeypatch):
    """What the toy clients measure before training, and their shares of the examples."""
    monkeypatch.setattr(
        per_client.OneRound,
        "train_losses",
        lambda self, w, clients: {c: LOSSES[c] for c in clients},
    )
    monkeypatch.setattr(per_client.OneRound, "shares", np.array([0.75, 0.25]))


def test_q_by_hand():
    # Updates of w and of the two rows owned: client 0 -0.2 each, squares 3 * 0.04 = 0.12; client 1
    # 0.38 each, 3 * 0.1444 = 0.4332. q = 1, L = 10: h_0 = 10 * 0.12 + 2 = 3.2, h_1 = 4.332 + 0.5 =
    # 4.832. Mean: (3 * 2 * -0.2 + 1 * 0.5 * 0.38) / (3 * 3.2 + 4.832) = -1.01 / 14.432
    state, _ = rounds_of(QFedAvg(FedAvg(SGD(1.0), RULE), 1.0), CLIENTS, 1)
    assert state.weights["w"] == pytest.approx(1 - 1.01 / 14.432)
    # row 0 of client 0 alone: -1.2 / 14.432, over owners -1.2 / 9.6
    assert state.weights["rows"][0] == pytest.approx(1 - 1.2 / 14.432)
    owners, _ = rounds_of(QFedAvg(FedSubAvg(SGD(1.0), RULE), 1.0), CLIENTS, 1)
    assert owners.weights["rows"][0] == pytest.approx(1 - 0.125)
    # q = 2: F^2 and h = 2 F L ||.||^2 + F^2: 4.8 + 4 = 8.8, 4.332 + 0.25 = 4.582
    squared, _ = rounds_of(QFedAvg(FedAvg(SGD(1.0), RULE), 2.0), CLIENTS, 1)
    assert squared.weights["w"] == pytest.approx(1 + (3 * 4 * -0.2 + 0.25 * 0.38) / (26.4 + 4.582))


@pytest.mark.parametrize("half", [FedAvg, FedSubAvg])
@pytest.mark.parametrize("make", [QFedAvg, AgnosticFL])
def test_0_is_averaging_to_the_bit(half, make):
    ours, _ = rounds_of(make(half(SGD(1.0), RULE), 0.0), CLIENTS, 3)
    averaging, _ = rounds_of(half(SGD(1.0), RULE), CLIENTS, 3)
    for name, array in averaging.weights.items():
        np.testing.assert_array_equal(ours.weights[name], array)


def test_the_mixture_by_hand():
    # Round 1 has lambda = p = (3/4, 1/4): plain averaging, (3 * -0.2 + 0.38) / 4 = -0.055. Then
    # lambda + 0.1 * (2, 0.5) = (0.95, 0.3), less 0.125 each: (0.825, 0.175).
    algorithm = AgnosticFL(FedAvg(SGD(1.0), RULE), 0.1)
    state, training = rounds_of(algorithm, CLIENTS, 1)
    assert state.weights["w"] == pytest.approx(1 - 0.055)
    assert training.per_client.store.get(-1)["mixture"] == pytest.approx([0.825, 0.175])
    # Round 2 at w = 0.945: updates -0.189 and 0.1 * 2.055 + 0.1 * 1.8495 = 0.39045; clients count
    # 3 * 1.1 and 1 * 0.7.
    state, _ = rounds_of(algorithm, CLIENTS, 2)
    assert state.weights["w"] == pytest.approx(0.945 + (3.3 * -0.189 + 0.7 * 0.39045) / 4)


def test_a_cohort_stands_for_all():
    # N / |S| = 2: lambda + 0.1 * (2 * 2, 0) = (1.15, 0.25), less 0.2 each
    algorithm = AgnosticFL(FedAvg(SGD(1.0), RULE), 0.1)
    _, training = rounds_of(algorithm, CLIENTS, 1, cohorts=[[0]])
    assert training.per_client.store.get(-1)["mixture"] == pytest.approx([0.95, 0.05])


def test_projection():
    assert project_to_simplex(np.array([0.2, 0.8])).tolist() == pytest.approx([0.2, 0.8])
    assert project_to_simplex(np.array([3.0, 0.0, 0.0])).tolist() == [1, 0, 0]
    found = project_to_simplex(np.array([0.5, 0.4, 0.3, -2.0]))
    assert found.tolist() == pytest.approx([13 / 30, 1 / 3, 7 / 30, 0])


@pytest.mark.parametrize("make", [QFedAvg, AgnosticFL])
def test_what_cannot_be(make):
    with pytest.raises(ValueError, match="is -1, expected at least 0"):
        make(FedAvg(SGD(1.0), RULE), -1)
