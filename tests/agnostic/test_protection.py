"""fedgru/agnostic/protection: alpha over the rounds, what methods do in a round, and alpha 0."""

import numpy as np
import pytest

from fedgru import algorithms
from fedgru.agnostic import pooled, protection
from fedgru.agnostic.erasure import Moments
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.models import gru, heads
from fedgru.training import loop as round_loop
from fedgru.training.rounds import FederatedTraining, run_round
from tests.conftest import slow_but


def _train(task, rounds=None):
    rows = {}
    result = round_loop.train(
        FederatedTraining(JaxEngine(task), algorithms.from_settings(task.settings)),
        lambda round_num, row, _: rows.update({round_num: row}),
        lambda state: None,
    )
    return result, rows


METHODS = "reversal", "confusion", "bottleneck", "hsic", "leace"


@pytest.mark.parametrize("method", slow_but(METHODS, "reversal"))
def test_alpha_0_is_ordinary_training_to_the_bit(make_task, method):
    common = {"rounds": 3, "dropout": 0.3, "local_loop": "xla"}
    ordinary, rows = _train(make_task(**common))
    agnostic, agnostic_rows = _train(
        make_task(**common, agnostic_to="weekend", alpha=0.0, method=method)
    )
    for name, array in ordinary.best.weights.items():
        np.testing.assert_array_equal(array, agnostic.best.weights[name])
    assert agnostic.best.round_num == ordinary.best.round_num
    for round_num, row in rows.items():
        assert {key: agnostic_rows[round_num][key] for key in row} == row


@pytest.mark.slow
def test_alpha_rises_in_the_first_half_and_only_then_may_a_round_be_best(make_task):
    task = make_task(rounds=10, agnostic_to="weekend", alpha=0.8, alpha_schedule="linear")
    found = task.protection
    # half of ten rounds is five: 0, 1/4, 2/4, 3/4, 1 of 0.8, then 0.8
    alphas = [found.strength_at(round_num) for round_num in range(1, 8)]
    assert alphas == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert [found.is_risen(round_num) for round_num in range(7)] == [False] * 5 + [True] * 2
    result, rows = _train(task)
    assert result.best.round_num >= 5
    assert [rows[r]["train/alpha/micro"] for r in (1, 5)] == pytest.approx([0.0, 0.8])


def test_alpha_1_leaves_the_target_head_alone(make_task):
    # (1 - alpha) is the whole gradient of the target's weights
    task = make_task(agnostic_to="weekend", method="reversal", alpha=1.0, alpha_schedule="constant")
    engine = JaxEngine(task)
    state = algorithms.from_settings(task.settings).init(protection.init_weights(task))
    state, constants = task.protection.before_round(engine, state, [0, 1])
    (update,) = engine.local_updates(state.weights, [1], 1, constants)
    assert not update.dense["head_kernel"].any()
    assert update.dense["recurrent"].any() and update.dense["protected_0_0_kernel"].any()


def test_sums_of_the_head_count_known_labels_once_per_epoch(make_task):
    task = make_task(agnostic_to="category-group:Home", method="reversal", local_epochs=3)
    engine = JaxEngine(task)
    state = algorithms.from_settings(task.settings).init(protection.init_weights(task))
    state, constants = task.protection.before_round(engine, state, [2])
    (update,) = engine.local_updates(state.weights, [2], 1, constants)
    start, end = task.clients.starts[2], task.clients.train_ends[2]
    known = (task.protection.concept.labels[start : end - 1] >= 0).sum()
    assert update.protected[2] == 3 * known


def test_a_head_taught_by_the_server_reads_and_is_held_still(make_task):
    task = make_task(agnostic_to="client", method="reversal", alpha=0.5, alpha_schedule="constant")
    engine = JaxEngine(task)
    assert task.protection.server_head
    state = algorithms.from_settings(task.settings).init(protection.init_weights(task))
    taught, constants = task.protection.before_round(engine, state, task.training_clients)
    (update,) = engine.local_updates(taught.weights, [1], 1, constants)
    own, head_update = heads.split_heads(update.dense)
    assert not any(w.any() for w in head_update.values())
    assert own["recurrent"].any()
    # untrained states of six people, with their ids among the inputs, are told apart
    hidden, labels = task.protection._train_states(engine, taught.weights, task.training_clients)
    before, after = (
        (np.asarray(heads.apply_head(w, 0, hidden)).argmax(1) == labels).mean()
        for w in (state.weights, taught.weights)
    )
    assert before < 0.4 and after > 0.9


def test_the_eraser_is_made_of_the_cohort_and_leaves_equal_means(make_task):
    task = make_task(agnostic_to="client", method="leace", alpha=0.5, alpha_schedule="constant")
    engine = JaxEngine(task)
    algorithm = algorithms.from_settings(task.settings)
    state = algorithm.init(protection.init_weights(task))
    after = run_round(engine, algorithm, state, task.training_clients).state
    hidden, labels = task.protection._train_states(engine, after.weights, task.training_clients)
    seen = np.asarray(gru.represent(after.weights, hidden))
    moments = Moments.of(seen, labels, 6)
    means = moments.sums / moments.value_counts[:, None]
    np.testing.assert_allclose(means, np.broadcast_to(seen.mean(0), means.shape), atol=1e-4)
    assert hidden.std(0).mean() > 0.01


def test_noise_is_part_of_what_is_served_and_the_same_twice(make_task):
    task = make_task(agnostic_to="weekend", method="bottleneck", alpha=0.5)
    weights = protection.init_weights(task) | {"noise_scale": np.float32(0.5)}
    hidden = np.zeros((4000, 8), np.float32)
    seen = protection.represent(task, weights, hidden, "test")
    assert seen.std() == pytest.approx(0.5, rel=0.02)
    np.testing.assert_array_equal(seen, protection.represent(task, weights, hidden, "test"))
    engine = JaxEngine(task)
    noised = evaluate.evaluate(engine, weights, "val").summary()
    plain = evaluate.evaluate(engine, weights | {"noise_scale": np.float32(0)}, "val").summary()
    assert noised["val/loss/micro"] != plain["val/loss/micro"]


@pytest.mark.slow
def test_dependence_pushes_clients_towards_everybodys_mean(make_task):
    spread = {}
    for name, method in (("off", "reversal"), ("on", "hsic")):
        alpha = 0.9 if name == "on" else 0.0
        task = make_task(
            agnostic_to="client",
            alpha=alpha,
            method=method,
            alpha_schedule="constant",
            rounds=6,
            client_lr=0.02,
            protected_head="auto",
            prior="none",
        )
        result, _ = _train(task)
        hidden, labels = task.protection._train_states(
            JaxEngine(task), result.last.weights, task.training_clients
        )
        moments = Moments.of(hidden, labels, 6)
        means = moments.sums / moments.value_counts[:, None]
        spread[name] = means.var(0).sum() / hidden.var(0).sum()
    assert spread["on"] < 0.5 * spread["off"]


def test_a_reset_starts_one_head_anew(make_task):
    task = make_task(
        agnostic_to="weekend", method="ensemble", alpha=0.5, alpha_schedule="constant", rounds=12
    )
    found = task.protection  # six resets in twelve rounds: every second round, heads in turn
    weights = found.init_weights(8)
    marked = {name: np.full_like(w, 7) for name, w in weights.items()}
    taught = {}

    def keep(own, *_):
        taught.update(own)
        return own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pooled, "teach", keep)
        seen, labels = np.zeros((20, 8), np.float32), np.zeros(20, np.int32)
        draw = np.random.default_rng(0)
        found._teach_heads(marked, seen, labels, 1, draw)
        assert all((w == 7).all() for w in taught.values())
        found._teach_heads(marked, seen, labels, 4, draw)  # the second reset: head 2
    anew = {name.split("_")[1] for name, w in taught.items() if not (w == 7).all()}
    assert anew == {"2"}


def test_settings_say_which_methods_have_a_server_head():
    from fedgru.config import AgnosticSettings

    def has(agnostic_to, method="reversal", **given):
        settings = AgnosticSettings(agnostic_to=agnostic_to, method=method, **given)
        return protection.has_server_head(settings, agnostic_to in ("client", "faith"))

    assert not has(agnostic_to="zone")
    assert has(agnostic_to="client")
    assert has(agnostic_to="faith")  # a column with one value for each client
    assert has(agnostic_to="zone", method="ensemble")
    assert not has(agnostic_to="client", protected_head="local")
    assert not has(agnostic_to="client", method="hsic")
