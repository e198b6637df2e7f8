"""fedgru/algorithms/fed_nova.py, by hand and against federated averaging."""

import numpy as np
import pytest

from fedgru.algorithms import ClientRule, FedAvg, FedSubAvg
from fedgru.algorithms.fed_nova import FedNova, NormalisedSum, gradient_weight
from fedgru.algorithms.server_optimizers import SGD
from tests.algorithms.toy import START, Toy, rounds_of

RULE = ClientRule("sgd", 0.1, 1)
CLIENTS = ((2.0, 0.0, 1, 3), (1.0, -3.0, 2, 1))


def test_two_clients_by_hand():
    # updates -0.2 in 1 step and 0.38 in 2; examples 3 and 1, so tau_eff = 3/4 + 2/4 = 1.25 and the
    # mean update is 1.25 * (3/4 * -0.2 + 1/4 * 0.19) = -0.128125. Plain: (-0.6 + 0.38) / 4 = -0.055
    state, _ = rounds_of(FedNova(FedAvg(SGD(1.0), RULE)), CLIENTS, 1)
    assert state.weights["w"] == pytest.approx(1 - 0.128125)
    # row 0 of client 0 alone: over all clients 1.25 * 3/4 * -0.2; over owners 1.25 * -0.2
    assert state.weights["rows"][0] == pytest.approx(1 - 0.1875)
    owners, _ = rounds_of(FedNova(FedSubAvg(SGD(1.0), RULE)), CLIENTS, 1)
    assert owners.weights["rows"][0] == pytest.approx(1 - 0.25)
    assert owners.weights["rows"][2] == pytest.approx(1 - 0.128125)


def test_the_weights_of_gradients_under_fed_prox():
    # gradients 1, ..., of three steps by 0.1 with mu 2: each is shrunk by 0.8 per later step
    rule = ClientRule("sgd", 0.1, prox_mu=2.0)
    w, start, weights = 0.0, 0.0, []
    for chosen in range(3):
        w = 0.0
        for step in range(3):
            w -= 0.1 * ((step == chosen) + 2.0 * (w - start))
        weights.append(-w / 0.1)
    assert weights == pytest.approx([0.64, 0.8, 1.0])
    assert gradient_weight(3, rule) == pytest.approx(sum(weights))


@pytest.mark.parametrize("half", [FedAvg, FedSubAvg])
def test_equal_steps_are_averaging_to_the_bit(half):
    clients = ((2.0, 0.0, 3, 7), (1.3, -3.0, 3, 5))
    ours, _ = rounds_of(FedNova(half(SGD(1.0), RULE)), clients, 3)
    averaging, _ = rounds_of(half(SGD(1.0), RULE), clients, 3)
    for name, array in averaging.weights.items():
        np.testing.assert_array_equal(ours.weights[name], array)


def test_parts_of_a_cohort_merge():
    updates = list(Toy(CLIENTS, RULE).local_updates(START, [0, 1], 1))
    whole = NormalisedSum(START, None, RULE)
    for update in updates:
        whole.add(update)
    merged = NormalisedSum(START, None, RULE)
    for update in updates:
        part = NormalisedSum(START, update.row_ids, RULE)
        part.add(update)
        merged.merge(part)
    half = FedSubAvg(SGD(1.0), RULE)
    for name, array in half.mean_update(whole).items():
        np.testing.assert_allclose(half.mean_update(merged)[name], array, rtol=1e-6)


def test_an_engine_that_counts_no_steps_is_refused():
    with pytest.raises(ValueError, match="counts local steps"):
        gradient_weight(0, RULE)
