"""fedgru/algorithms/client_start.py: clients that start each from weights of their own."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.agnostic import protection
from fedgru.algorithms import ClientRule
from fedgru.algorithms.client_start import ClientStart, own_weights, whole_weights
from fedgru.core import seeding
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.testing import largest_gap

SGD = {"client_optimizer": "sgd", "client_lr": 0.1, "local_epochs": 2, "threads": 1}


class Xla(JaxEngine):
    def __init__(self, task, client_rule=None):
        loop = task.settings.loop.model_copy(update={"local_loop": "xla"})
        settings = task.settings.model_copy(update={"loop": loop})
        super().__init__(replace(task, settings=settings), client_rule)


ENGINES = [JaxEngine, Xla, ReferenceEngine]


def noise_like(weights, purpose):
    rng = seeding.rng(0, purpose)
    return {n: 0.05 * rng.standard_normal(w.shape).astype(np.float32) for n, w in weights.items()}


def test_own_rows_and_back():
    weights = {"rows": np.arange(8.0).reshape(4, 2), "bias": np.ones(2)}
    own = own_weights(weights, np.array([1, 3]))
    assert own["rows"].tolist() == [[2, 3], [6, 7]]
    back = whole_weights({**own, "rows": -own["rows"]}, np.array([1, 3]), weights["rows"])
    assert back["rows"].tolist() == [[0, 1], [-2, -3], [4, 5], [-6, -7]]
    assert weights["rows"][1].tolist() == [2, 3]  # a copy


@pytest.mark.parametrize("make", ENGINES)
def test_a_start_that_is_the_received_weights_changes_nothing(make_task, make):
    task = make_task(**SGD)
    weights, rule = protection.init_weights(task), ClientRule.of(task.settings.client)
    plain = list(make(task, rule).local_updates(weights, [2, 5], 1))
    engine = make(task, replace(rule, by_client=True))
    starts = []

    def start(client, row_ids):
        starts.append((client, row_ids.tolist()))
        return ClientStart(own_weights(weights, row_ids))

    own = list(engine.local_updates(weights, [2, 5], 1, starts=start))
    assert starts == [(u.client, u.row_ids.tolist()) for u in plain]
    for found, expected in zip(own, plain, strict=True):
        for name, array in expected.dense.items():
            np.testing.assert_array_equal(found.dense[name], array, err_msg=name)
        np.testing.assert_array_equal(found.row_update, expected.row_update)


@pytest.mark.parametrize("make", ENGINES)
def test_start_offset_and_anchor_by_a_second_route(make_task, make):
    """One step per pass: mu * (w - anchor) and the offset are put in by hand between passes."""
    given = SGD | {"batch_size": 8, "seq_len": 32}
    task = make_task(**given)
    shared = protection.init_weights(task)
    assert task.local_data(2).mask.shape[0] == 1
    plain = replace(ClientRule.of(task.settings.client), local_epochs=1)
    averaging = make(task, plain)
    (probe,) = averaging.local_updates(shared, [2], 1)
    ids = probe.row_ids
    own = own_weights(shared, ids)
    start = {n: own[n] + u for n, u in noise_like(own, "start").items()}
    offset, anchor = noise_like(own, "offset"), {n: own[n] for n in own}
    rule = replace(plain, local_epochs=2, by_client=True, prox_mu=0.7)
    (found,) = make(task, rule).local_updates(
        shared, [2], 1, starts=lambda *_: ClientStart(start, offset, anchor)
    )
    assert found.num_steps == 2

    now = start
    for _ in range(2):
        (update,) = averaging.local_updates(whole_weights(now, ids, shared["rows"]), [2], 1)
        steps = {**update.dense, "rows": update.row_update}
        now = {n: w + steps[n] - 0.1 * (offset[n] + 0.7 * (w - anchor[n])) for n, w in now.items()}
    expected = {n: now[n] - start[n] for n in now}
    assert largest_gap({**found.dense, "rows": found.row_update}, expected) < 1
    without = {n: e + 0.2 * offset[n] for n, e in expected.items()}
    assert largest_gap(without, expected) > 100  # the offset is not lost in the tolerance


@pytest.mark.parametrize("make", ENGINES)
def test_gradients_at_the_received_weights_by_a_second_route(make_task, make):
    """With steps of one pass each, two passes at the received weights are twice the first step."""
    given = {"client_optimizer": "sgd", "batch_size": 8, "seq_len": 32, "threads": 1}
    task = make_task(**given)
    weights = protection.init_weights(task)
    rule = ClientRule("sgd", 0.1, 1)
    (once,) = make(task, rule).local_updates(weights, [2], 1)
    held = ClientRule("sgd", 0.1, 2, at_received=True)
    (twice,) = make(task, held).local_updates(weights, [2], 1)
    assert largest_gap(twice.dense, {n: 2 * u for n, u in once.dense.items()}) < 1
    assert largest_gap({"rows": twice.row_update}, {"rows": 2 * once.row_update}) < 1
    (moved,) = make(task, replace(rule, local_epochs=2)).local_updates(weights, [2], 1)
    assert largest_gap(moved.dense, twice.dense) > 100


def test_the_c_code_leaves_held_gradients_to_xla_and_says_so(make_task):
    task, rule = make_task(threads=1, device="cpu"), ClientRule()
    assert str(JaxEngine(task, replace(rule, at_received=True))) == (
        "jax on cpu (1 thread; local steps by XLA: the C code cannot be used, it takes gradients "
        "only where the weights are)"
    )
    assert str(JaxEngine(task, replace(rule, by_client=True))) == (
        "jax on cpu (1 thread; local steps in C)"
    )


@pytest.mark.parametrize("given", [SGD, {"client_lr": 0.003}], ids=["sgd", "adam"])
@pytest.mark.parametrize("mu", [0.0, 0.7])
@pytest.mark.parametrize("hidden_dim", [8, 21])
def test_c_and_xla_agree_on_starts_offsets_and_anchors(make_task, given, mu, hidden_dim):
    """Also rows that no input of a step names move: by their offset, and to their anchor."""
    task = make_task(**(given | {"hidden_dim": hidden_dim, "local_epochs": 2, "dropout": 0.3}))
    shared = protection.init_weights(task)
    rule = replace(ClientRule.of(task.settings.client), by_client=True, prox_mu=mu)

    def start(client, row_ids):
        own = own_weights(shared, row_ids)
        moved = {n: own[n] + u for n, u in noise_like(own, f"start {client}").items()}
        return ClientStart(moved, noise_like(own, f"offset {client}"), own if client else None)

    found, expected = (
        list(engine.local_updates(shared, [0, 2, 5], 1, starts=start))
        for engine in (JaxEngine(task, rule), Xla(task, rule))
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert largest_gap(ours.dense, theirs.dense) < 1
        assert largest_gap({"rows": ours.row_update}, {"rows": theirs.row_update}) < 1
        assert ours.loss_sum == pytest.approx(theirs.loss_sum, rel=1e-5)
