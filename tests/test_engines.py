"""fedgru/engines: the fast path against slow and obvious ones, and that it is the one that ran."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedgru import algorithms, seeding
from fedgru.engines import jax as jax_engine
from fedgru.engines.jax import JaxEngine
from fedgru.errors import TrainingError
from fedgru.models import gru


def start(task):
    algorithm = algorithms.from_settings(task.settings.server)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    return algorithm, algorithm.init(weights)


def train_by_the_book(task, weights, client, forget_state=False, ignore_mask=False):
    """Local training with the whole table, one-hot inputs, plain autodiff, Python loops."""
    data, spec, settings = task.local_data(client), task.spec, task.settings.client
    mask = np.ones_like(data.mask) if ignore_mask else data.mask
    zero_state = gru.zero_state(spec.cell, spec.hidden_dim, mask.shape[1])
    advance, _ = gru._CELLS[spec.cell]

    def loss(weights, step, state):
        one_hot = jax.nn.one_hot(data.rows[step], spec.num_rows).sum(axis=2)  # -1 is all zeros
        kernel = jnp.concatenate([weights["rows"], weights["numbers"]])
        gates = jnp.concatenate([one_hot, data.numbers[step]], axis=-1) @ kernel
        total = 0.0
        for t in range(gates.shape[1]):
            bias = weights["bias"]
            gates_t = gates[:, t] + (bias[0] if spec.cell == "gru" else bias)
            pulled = state[0] @ weights["recurrent"] + (bias[1] if spec.cell == "gru" else 0)
            state, _ = advance(gates_t, pulled, state)
            prior = None if data.log_prior is None else data.log_prior[step, :, t]
            log_probs = jax.nn.log_softmax(gru.logits(weights, state[0], prior))
            for b in range(len(gates)):
                total -= mask[step, b, t] * log_probs[b, data.targets[step, b, t]]
        return total / mask[step].sum(), (state, total)

    start_weights = weights
    m = v = jax.tree.map(jnp.zeros_like, weights)
    count, loss_sum = 0, 0.0
    for _ in range(data.passes):
        state = zero_state
        for step in range(len(mask)):
            state = zero_state if forget_state else state
            gradient, (state, total) = jax.grad(loss, has_aux=True)(weights, step, state)
            count, loss_sum = count + 1, loss_sum + float(total)
            if settings.client_optimizer == "sgd":
                weights = jax.tree.map(lambda w, g: w - settings.client_lr * g, weights, gradient)
                continue
            m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, gradient)
            v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, gradient)
            rate = settings.client_lr * np.sqrt(1 - 0.999**count) / (1 - 0.9**count)
            moved = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + 1e-7), m, v)
            weights = {name: w - rate * moved[name] for name, w in weights.items()}
    return jax.tree.map(lambda a, b: np.asarray(a - b), weights, start_weights), loss_sum


@pytest.mark.parametrize(
    "overrides",
    [
        {"client_optimizer": "sgd", "client_lr": 0.1},
        {"client_optimizer": "adam", "client_lr": 0.01},
        {"client_optimizer": "adam", "client_lr": 0.01, "cell": "lstm", "prior": "none"},
        {"client_optimizer": "sgd", "client_lr": 0.1, "layout": "chunks"},
    ],
)
def test_local_training_equals_the_book(make_task, overrides):
    task = make_task(local_epochs=2, seq_len=4, **overrides)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    (update,) = JaxEngine(task).local_updates(weights, [2], round_num=1)
    expected, loss_sum = train_by_the_book(task, weights, 2)
    data = task.local_data(2)
    assert len(data.mask) * data.passes >= 4  # several local steps
    if task.settings.layout.layout == "streams":
        assert (data.mask == 0).any()  # one of them with a padded tail
    assert update.loss_sum == pytest.approx(loss_sum, rel=1e-5)
    for name, array in update.dense.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-3, atol=2e-5)
    np.testing.assert_allclose(
        update.row_update, expected["rows"][update.row_ids], rtol=1e-3, atol=2e-5
    )
    # rows of other clients' values do not move at all: training on own rows is exact
    others = np.delete(expected["rows"], update.row_ids, axis=0)
    assert len(others) and not others.any()


@pytest.mark.parametrize("fault", ["forget_state", "ignore_mask"])
def test_the_book_with_a_fault_ends_elsewhere(make_task, fault):
    # so the comparison above would catch it: ten times its tolerance and more
    task = make_task(local_epochs=2, seq_len=4, client_optimizer="sgd", client_lr=0.1)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    (update,) = JaxEngine(task).local_updates(weights, [2], round_num=1)
    faulty, _ = train_by_the_book(task, weights, 2, **{fault: True})
    assert np.abs(update.dense["recurrent"] - faulty["recurrent"]).max() > 10 * 2e-5


def test_threads_and_cohort_order_change_nothing(make_task):
    results = []
    for threads, cohort in ((1, [0, 1, 2, 3]), (2, [0, 1, 2, 3])):
        task = make_task(threads=threads, dropout=0.3)
        algorithm, state = start(task)
        results.append(JaxEngine(task).run_round(algorithm, state, cohort).state.weights)
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])
    task = make_task(dropout=0.3)
    algorithm, state = start(task)
    turned = JaxEngine(task).run_round(algorithm, state, [3, 1, 0, 2]).state.weights
    for name, array in results[0].items():
        np.testing.assert_allclose(array, turned[name], atol=1e-6)


def test_nothing_is_compiled_after_round_one(make_task):
    task = make_task()
    engine = JaxEngine(task)
    algorithm, state = start(task)
    assert engine.local_loops_compiled == 0
    state = engine.run_round(algorithm, state, task.training_clients).state
    assert engine.local_loops_compiled == 1  # one shape serves clients of all lengths
    engine.run_round(algorithm, state, task.training_clients)
    assert engine.local_loops_compiled == 1


def test_dropout_is_drawn_anew_for_each_round_and_client(make_task):
    task = make_task(dropout=0.5)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    engine = JaxEngine(task)
    first, again, second = (
        next(engine.local_updates(weights, [0], round_num)).loss_sum for round_num in (1, 1, 2)
    )
    assert first == again != second


def test_packed_walk_equals_one_client_at_a_time(make_task, monkeypatch):
    # clients share rows, and rows take several chunks of time
    monkeypatch.setattr(jax_engine, "WALK_SEQ_LEN", 16)
    monkeypatch.setattr(jax_engine, "WALK_ROWS", 2)
    task = make_task(threads=2)
    clients = task.clients
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    first = clients.starts[:-1] + np.arange(len(clients)) * 3
    end = clients.starts[1:] - np.arange(len(clients)) * 4
    wanted = np.concatenate([np.arange(f, e, 3) for f, e in zip(first, end, strict=True)])
    found = JaxEngine(task).hidden_states(weights, first, end, wanted)
    for client in range(len(clients)):
        own = slice(first[client], end[client])
        gates = gru.project(
            weights, task.inputs.rows[own][:, None], task.inputs.numbers[own][:, None]
        )
        state = gru.zero_state("gru", task.spec.hidden_dim, 1)
        hidden, _ = gru.recur("gru", gates, weights["recurrent"], weights["bias"], state)
        at = (wanted >= own.start) & (wanted < own.stop)
        np.testing.assert_allclose(found[at], hidden[::3, 0], atol=1e-5)


def test_a_loss_that_is_not_a_number_stops_and_names_the_client(make_task):
    task = make_task(client_optimizer="sgd", client_lr=1e38)
    algorithm, state = start(task)
    engine = JaxEngine(task)
    with pytest.raises(TrainingError) as error:
        engine.run_round(algorithm, state, [4, 1])
    assert str(error.value) == (
        f"training loss became NaN in round 1 (client {task.clients.client_ids[4]} first). "
        "Try a smaller --client-lr (now 1e+38) or --server-lr (now 1)."
    )


def test_divergence_is_told_from_bad_luck(make_task):
    task = make_task(client_optimizer="sgd", client_lr=1000.0, prior="none")
    algorithm, state = start(task)
    with pytest.raises(TrainingError, match="^training diverged: the loss of round 1 is .* nats, "):
        JaxEngine(task).run_round(algorithm, state, [0, 1])
