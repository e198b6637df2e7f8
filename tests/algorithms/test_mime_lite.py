"""fedgru/algorithms/mime_lite.py, by hand and against federated averaging."""

import numpy as np
import pytest

from fedgru.algorithms import ClientRule, FedAvg
from fedgru.algorithms.mime_lite import MimeLite
from fedgru.algorithms.server_optimizers import SGD
from fedgru.training.per_client import PerClientRounds
from tests.algorithms.toy import Toy, rounds_of

RULE = ClientRule("sgd", 0.1, 1)
CLIENTS = ((2.0, 0.0, 1, 3), (1.0, -3.0, 2, 1))


@pytest.fixture(autouse=True)
def toys_for_other_rules(monkeypatch):
    monkeypatch.setattr(PerClientRounds, "engine_of", lambda self, rule: Toy(CLIENTS, rule))


def test_two_rounds_by_hand():
    # Round 1, m = 0, beta = 0.5: steps of 0.05. Client 0: -0.05 * 2 = -0.1. Client 1: 0.1, then at
    # 1.1: 0.05 * 1.9 = 0.095, update 0.195. Mean (3 * -0.1 + 0.195) / 4 = -0.02625. Gradients at
    # 1: 2 and -2, mean (6 - 2) / 4 = 1, m = 0.5.
    state, _ = rounds_of(MimeLite(FedAvg(SGD(1.0), RULE), 0.5), CLIENTS, 1)
    assert state.weights["w"] == pytest.approx(0.97375)
    assert state.optimizer["momentum"]["w"] == pytest.approx(0.5)
    # Round 2: steps 0.1 * (0.5 g + 0.25). Client 0: g = 1.9475, -0.122375. Client 1: g =
    # -2.02625, +0.0763125, then at 1.0500625: g = -1.9499375, +0.072496875; update 0.148809375.
    # Mean (3 * -0.122375 + 0.148809375) / 4 = -0.05457890625.
    state, _ = rounds_of(MimeLite(FedAvg(SGD(1.0), RULE), 0.5), CLIENTS, 2)
    assert state.weights["w"] == pytest.approx(0.97375 - 0.05457890625)
    gradient = (3 * 1.9475 - 2.02625) / 4
    assert state.optimizer["momentum"]["w"] == pytest.approx(0.5 * gradient + 0.5 * 0.5)


def test_momentum_0_is_averaging_to_the_bit():
    half = FedAvg(SGD(1.0), RULE)
    ours, _ = rounds_of(MimeLite(half, 0.0), CLIENTS, 3)
    averaging, _ = rounds_of(half, CLIENTS, 3)
    for name, array in averaging.weights.items():
        np.testing.assert_array_equal(ours.weights[name], array)


def test_what_cannot_be():
    with pytest.raises(ValueError, match="momentum is 1, expected from 0 to below 1"):
        MimeLite(FedAvg(SGD(1.0), RULE), 1)
    with pytest.raises(ValueError, match="needs clients with optimizer sgd, not adam"):
        MimeLite(FedAvg(SGD(1.0)), 0.5)
