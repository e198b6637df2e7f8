"""fedgru/algorithms/fed_prox.py and client_rule.py: the client half of an algorithm."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import algorithms
from fedgru.agnostic import protection
from fedgru.algorithms import ClientRule, FedAvg, FedProx
from fedgru.algorithms.server_optimizers import SGD
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.testing import largest_gap
from fedgru.training.rounds import run_round

COHORT = [0, 2, 5]


def stretched(weight, received):
    """What FedProx with mu 0.7 adds, as a correction of one's own."""
    return 0.7 * (weight - received)


def test_what_is_added_to_a_gradient():
    # mu 0.5 at w 3 and w_t 1: 0.5 * (3 - 1) = 1; the correction adds 0.7 * 2
    assert ClientRule(prox_mu=0.5).added(3.0, 1.0) == 1.0
    assert ClientRule(correction=stretched).added(3.0, 1.0) == pytest.approx(1.4)
    assert ClientRule(prox_mu=0.5, correction=stretched).added(3.0, 1.0) == pytest.approx(2.4)
    assert not ClientRule().adds_to_gradient


def test_two_clients_by_hand():
    # One weight, plain gradient descent by 0.1 from w_t = 1, two local steps. Client a's loss has
    # the gradient w, client b's -2; mu = 1. First steps: a 1 - 0.1 = 0.9, b 1 + 0.2 = 1.2.
    # Second: a 0.9 - 0.1 * (0.9 + (0.9 - 1)) = 0.82, b 1.2 - 0.1 * (-2 + (1.2 - 1)) = 1.38.
    # Without the term they would be at 0.81 and 1.4. With 3 and 1 examples the mean update is
    # (3 * -0.18 + 0.38) / 4 = -0.04.
    rule = FedProx(FedAvg(SGD(1.0)), prox_mu=1.0).client_rule
    ends = []
    for gradient in (lambda w: w, lambda w: -2.0):
        weight = 1.0
        for _ in range(2):
            weight -= 0.1 * (gradient(weight) + rule.added(weight, 1.0))
        ends.append(weight)
    assert ends == pytest.approx([0.82, 1.38])
    assert (3 * (ends[0] - 1) + (ends[1] - 1)) / 4 == pytest.approx(-0.04)


@pytest.mark.parametrize("loop", ["native", "xla", "reference"])
def test_the_second_step_is_that_of_averaging_plus_the_term(make_task, loop):
    """By a second route: steps of plain averaging, and the term put in by hand between them."""
    given = {"client_optimizer": "sgd", "batch_size": 8, "seq_len": 32, "prox_mu": 3.0}
    given |= {"client_lr": 0.1, "local_epochs": 2, "device": "cpu"}
    task = make_task(**given, **({} if loop == "reference" else {"local_loop": loop}))
    make = ReferenceEngine if loop == "reference" else JaxEngine
    weights = protection.init_weights(task)
    assert task.local_data(2).mask.shape[0] == 1  # one step in a pass, two in all
    (found,) = make(task).local_updates(weights, [2], 1)

    plain = ClientRule.of(task.settings.client)
    averaging = make(task, replace(plain, local_epochs=1))

    def step(received):
        (update,) = averaging.local_updates(received, [2], 1)
        after = {name: received[name] + u for name, u in update.dense.items()}
        after["rows"] = received["rows"].copy()
        after["rows"][update.row_ids] += update.row_update
        return after

    first = step(weights)
    second = step(first)
    expected = {n: second[n] - 0.1 * 3.0 * (first[n] - weights[n]) - weights[n] for n in weights}
    rows = expected.pop("rows")
    assert largest_gap(found.dense, expected) < 1
    assert largest_gap({"rows": found.row_update}, {"rows": rows[found.row_ids]}) < 1
    without = {name: second[name] - weights[name] for name in expected}
    assert largest_gap(without, expected) > 100  # the term is not lost in the tolerance


@pytest.mark.parametrize("loop", ["native", "xla", "reference"])
def test_mu_0_is_averaging_to_the_bit(make_task, loop):
    task = make_task(device="cpu", **({} if loop == "reference" else {"local_loop": loop}))
    make = ReferenceEngine if loop == "reference" else JaxEngine
    averaging = algorithms.from_settings(task.settings)
    found = []
    for algorithm in (averaging, FedProx(averaging, 0.0)):
        state = algorithm.init(protection.init_weights(task))
        engine = make(task, algorithm.client_rule)
        for _ in range(2):
            state = run_round(engine, algorithm, state, COHORT).state
        found.append(state.weights)
    for name, array in found[0].items():
        np.testing.assert_array_equal(found[1][name], array, err_msg=name)


@pytest.mark.parametrize("make", [JaxEngine, ReferenceEngine])
def test_a_correction_of_ones_own_is_added(make_task, make):
    task = make_task(client_lr=0.01)
    weights = protection.init_weights(task)
    half = ClientRule.of(task.settings.client)
    (ours,) = make(task, replace(half, correction=stretched)).local_updates(weights, [2], 1)
    (known,) = make(task, replace(half, prox_mu=0.7)).local_updates(weights, [2], 1)
    (none,) = make(task, half).local_updates(weights, [2], 1)
    assert largest_gap(ours.dense, known.dense) < 1
    assert largest_gap(none.dense, known.dense) > 100


def test_the_c_code_leaves_a_correction_to_xla_and_says_so(make_task):
    task = make_task(threads=1, device="cpu")
    rule = replace(ClientRule.of(task.settings.client), correction=stretched)
    assert str(JaxEngine(task, rule)) == (
        "jax on cpu (1 thread; local steps by XLA: the C code cannot be used, it knows no "
        "correction of the gradient but FedProx's)"
    )
    proximal = make_task(threads=1, device="cpu", prox_mu=0.1)
    assert str(JaxEngine(proximal)) == "jax on cpu (1 thread; local steps in C)"


def test_settings_choose_it(make_task):
    task = make_task(prox_mu=0.25, mean="clients", server_lr=0.5, client_lr=0.125)
    algorithm = algorithms.from_settings(task.settings)
    assert (algorithm.name, type(algorithm.server_half)) == ("fed_prox", FedAvg)
    assert algorithm.server_optimizer == SGD(0.5)
    assert algorithm.client_rule == ClientRule("adam", 0.125, 4, prox_mu=0.25)
    assert JaxEngine(task).client_rule == algorithm.client_rule


def test_what_cannot_be(make_task):
    with pytest.raises(ValueError, match="^prox_mu is -1, expected at least 0$"):
        FedProx(FedAvg(SGD(1.0)), -1)
    task = make_task()
    averaging = algorithms.from_settings(task.settings)
    other = FedProx(averaging, 0.5)
    with pytest.raises(ValueError, match="but fed_prox asks for .*prox_mu=0.5"):
        run_round(JaxEngine(task), other, other.init(protection.init_weights(task)), COHORT)
