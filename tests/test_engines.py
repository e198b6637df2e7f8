"""fedgru/engines: every engine against the reference, and that the fast path is what ran."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru import algorithms, config, evaluation, protection, seeding
from fedgru.agnostic import objective
from fedgru.engines import jax as jax_engine
from fedgru.engines.jax import JaxEngine
from fedgru.engines.reference import ReferenceEngine
from fedgru.errors import ConfigError, TrainingError
from fedgru.models import gru
from fedgru.task import build_task


def start(task):
    algorithm = algorithms.from_settings(task.settings.server)
    return algorithm, algorithm.init(protection.init_weights(task))


COHORT = [0, 2, 5]  # clients of different size
AGNOSTIC = {"alpha": 0.6, "alpha_schedule": "constant"}
CASES = {
    "client sgd": {"client_optimizer": "sgd", "client_lr": 0.1},
    "client adam": {"client_lr": 0.01},
    "server adam": {"client_lr": 0.01, "server_optimizer": "adam", "server_lr": 0.01},
    "plain mean": {"client_lr": 0.01, "mean": "clients"},
    "lstm": {"client_lr": 0.01, "cell": "lstm"},
    "no prior": {"client_lr": 0.01, "prior": "none"},
    "chunks": {"client_lr": 0.01, "layout": "chunks"},
    "reversal": {"client_lr": 0.002, **AGNOSTIC, "agnostic_to": "weekend"},
    "reversal, client": {"client_lr": 0.002, **AGNOSTIC, "agnostic_to": "client"},
    "reversal, sgd": {
        **{"client_optimizer": "sgd", "client_lr": 0.1},
        **AGNOSTIC,
        "agnostic_to": "zone",
        "zones": 3,
    },
}


@pytest.fixture(scope="module")
def run_two_rounds(module_task):
    """Two rounds of one engine on one case: state and train metrics. Runs are kept."""
    done = {}

    def run(engine_class, case, keep=True):
        key = engine_class.__name__, case
        if key not in done or not keep:
            task = module_task(local_epochs=2, **CASES[case])
            engine, (algorithm, state) = engine_class(task), start(task)
            rows = []
            for _ in range(2):
                result = engine.run_round(algorithm, state, COHORT)
                state = result.state
                rows.append(result.metrics)
            val = evaluation.evaluate(engine, state.weights, "val").summary()
            done[key] = state.weights, rows, val
        return done[key]

    return run


@pytest.fixture(scope="module")
def module_task(tiny_data_set):
    def make(**overrides):
        small = {"hidden_dim": 8, "batch_size": 2, "seq_len": 5, "dropout": 0.0, "threads": 1}
        return build_task(tiny_data_set, config.load(small | {"prior": "backoff"} | overrides))

    return make


def largest_gap(weights, reference):
    """How far the weights are from the reference, in units of the allowed difference."""
    return max(
        np.max(np.abs(array - reference[name]) / (1e-4 * np.abs(reference[name]) + 2e-6))
        for name, array in weights.items()
    )


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("engine", [JaxEngine])
def test_equals_the_reference(run_two_rounds, engine, case):
    expected, expected_rows, expected_val = run_two_rounds(ReferenceEngine, case)
    weights, rows, val = run_two_rounds(engine, case)
    assert largest_gap(weights, expected) < 1
    for row, expected_row in zip(rows, expected_rows, strict=True):
        assert row == pytest.approx(expected_row, abs=1e-5)
    assert val == pytest.approx(expected_val, abs=1e-5)


def test_the_case_has_what_a_fault_would_show_in(module_task):
    task = module_task(local_epochs=2)
    data = [task.local_data(client) for client in COHORT]
    assert len({d.num_examples for d in data}) > 1  # equal weights would give another mean
    assert all(len(d.mask) * d.passes >= 4 for d in data)  # the state is carried, Adam goes on
    assert any((d.mask == 0).any() for d in data)  # a padded tail


class ForgetsToTurnTheGradient(JaxEngine):
    def local_updates(self, weights, cohort, round_num, constants=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(objective, "reverse_gradient", lambda x, weight: x)
            yield from super().local_updates(weights, cohort, round_num, constants)


def test_a_gradient_that_is_not_turned_is_seen(run_two_rounds):
    expected, _, _ = run_two_rounds(ReferenceEngine, "reversal")
    weights, _, _ = run_two_rounds(ForgetsToTurnTheGradient, "reversal")
    assert largest_gap(weights, expected) > 20


class ForgetsTheState(JaxEngine):
    def local_updates(self, weights, cohort, round_num, constants=None):
        recur = gru.recur

        def forgetful(cell, gates, recurrent, bias, state):
            return recur(cell, gates, recurrent, bias, tuple(0.0 * s for s in state))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gru, "recur", forgetful)
            yield from super().local_updates(weights, cohort, round_num)


class CountsPadding(JaxEngine):
    def _prepare(self, client):
        data = super()._prepare(client)
        rows, numbers, targets, mask, *others = data.arrays
        padded = np.ones_like(mask)
        return replace(data, arrays=(rows, numbers, targets, padded, *others))


class WeighsClientsEqually(JaxEngine):
    def local_updates(self, weights, cohort, round_num, constants=None):
        for update in super().local_updates(weights, cohort, round_num):
            yield replace(update, num_examples=1, loss_sum=0.0)


class RestartsAdamAtEachEpoch(JaxEngine):
    def _prepare(self, client):
        return replace(super()._prepare(client), passes=1)

    def local_updates(self, weights, cohort, round_num, constants=None):
        for client in cohort:
            (first,) = super().local_updates(weights, [client], round_num)
            between = {name: weights[name] + u for name, u in first.dense.items()}
            between["rows"] = weights["rows"].copy()
            between["rows"][first.row_ids] += first.row_update
            (second,) = super().local_updates(between, [client], round_num)
            yield replace(
                second,
                dense={name: first.dense[name] + u for name, u in second.dense.items()},
                row_update=first.row_update + second.row_update,
                loss_sum=first.loss_sum + second.loss_sum,
            )


@pytest.mark.parametrize(
    "fault", [ForgetsTheState, CountsPadding, WeighsClientsEqually, RestartsAdamAtEachEpoch]
)
def test_a_planted_fault_is_seen(run_two_rounds, fault):
    expected, _, _ = run_two_rounds(ReferenceEngine, "client adam")
    weights, _, _ = run_two_rounds(fault, "client adam")
    assert largest_gap(weights, expected) > 20


def test_a_client_moves_its_own_rows_alone(module_task):
    task = module_task(client_lr=0.01)
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    for engine in (JaxEngine(task), ReferenceEngine(task)):
        (update,) = engine.local_updates(weights, [2], round_num=1)
        own = {row for row in np.unique(task.local_data(2).rows) if row >= 0}
        assert set(update.row_ids.tolist()) == own
        assert 0 < len(own) < task.spec.num_rows
        assert np.abs(update.row_update).min(axis=1).max() > 0


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
    with pytest.raises(
        TrainingError, match="^training diverged: the train loss of round 1 is .* nats, "
    ):
        JaxEngine(task).run_round(algorithm, state, [0, 1])


def test_the_reference_needs_keras_on_tensorflow(make_task, monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ConfigError) as error:
        ReferenceEngine(make_task())
    assert str(error.value) == (
        "--engine reference needs Keras on TensorFlow, but KERAS_BACKEND is jax, where a training "
        "step does not carry the state of a stateful layer. Unset KERAS_BACKEND."
    )
