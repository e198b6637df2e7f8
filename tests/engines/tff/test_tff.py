"""fedgru/engines/tff/engine.py beyond what test_engines.py asks, and that no process is left
behind."""

import gc
import signal
import time
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest

from fedgru import config
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.tff.engine import TffEngine
from fedgru.evaluation import evaluate
from fedgru.task.task import build_task
from fedgru.testing import largest_gap
from fedgru.training.rounds import run_round
from tests.conftest import needs_no_tff, needs_tff, start, training_for_long

pytestmark = pytest.mark.tff

COHORT = [0, 2, 5]  # clients of different size


@pytest.fixture
def make_tff_task(tiny_data_set):
    small = {
        "engine": "tff",
        "features": "user,category,clock,latitude",
        "mean": "clients",
        "hidden_dim": 8,
        "batch_size": 2,
        "seq_len": 5,
        "local_epochs": 2,
        "dropout": 0.0,
        "prior": "backoff",
        "threads": 1,
    }

    def make(**overrides):
        return build_task(tiny_data_set, config.load(small | overrides))

    return make


def two_rounds(engine):
    algorithm, state = start(engine.task)
    rows = []
    for _ in range(2):
        result = run_round(engine, algorithm, state, COHORT)
        state = result.state
        rows.append(result.metrics)
    return state, rows


@needs_tff
def test_federated_evaluation_equals_that_by_hidden_states(make_tff_task):
    task = make_tff_task(users=5)
    engine, (_, state) = TffEngine(task), start(task)
    for split in ("val", "train"):
        expected = evaluate.evaluate(engine, state.weights, split).summary()
        assert engine.evaluate_on_clients(state.weights, split) == pytest.approx(
            {name: expected[f"{split}/{name}/micro"] for name in ("loss", "acc@1")}, abs=1e-5
        )


@needs_tff
def test_the_state_starts_at_zero_in_each_local_epoch(make_tff_task, monkeypatch):
    # without the signal in the batches it would be carried over, and end elsewhere
    from fedgru.engines.tff import model as tff_model

    task = make_tff_task(client_optimizer="sgd", client_lr=0.1)
    to_data_set = tff_model.to_data_set

    def without_signal(inputs, data):
        import tensorflow as tf

        # a scalar that is false, of the same type
        return to_data_set(inputs, data).map(
            lambda batch: OrderedDict(batch, is_start=tf.logical_and(batch["is_start"], False))
        )

    expected, _ = two_rounds(JaxEngine(task))
    monkeypatch.setattr(tff_model, "to_data_set", without_signal)
    state, _ = two_rounds(TffEngine(task))
    assert largest_gap(state.weights, expected.weights) > 10


@needs_tff
def test_hidden_states_equal_those_of_the_jax_engine(make_tff_task, monkeypatch):
    # groups of two, several chunks of time, ranges of any length and one of none
    monkeypatch.setattr("fedgru.engines.tff.engine.FORWARD_ROWS", 2)
    monkeypatch.setattr("fedgru.engines.tff.engine.FORWARD_SEQ_LEN", 16)
    task = make_tff_task()
    clients, (_, state) = task.clients, start(task)
    first = clients.starts[:-1] + np.arange(len(clients)) * 3
    end = clients.starts[1:] - np.arange(len(clients)) * 4
    end[1] = first[1]
    wanted = np.concatenate([np.arange(f, e, 3) for f, e in zip(first, end, strict=True)])
    found = TffEngine(task).hidden_states(state.weights, first, end, wanted)
    expected = JaxEngine(task).hidden_states(state.weights, first, end, wanted)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_tff
def test_dropout_is_drawn_anew_in_each_round_and_as_the_jax_engine_draws_it(make_tff_task):
    task = make_tff_task(dropout=0.5, client_lr=0.03)
    algorithm, state = start(task)
    found, expected = (
        [
            run_round(engine, algorithm, replace(state, round_num=i), COHORT).metrics["loss"]
            for i in range(20)
        ]
        for engine in (TffEngine(task), JaxEngine(task))
    )
    assert len(set(found)) == len(found)
    spread = np.hypot(np.std(found), np.std(expected)) / np.sqrt(len(found))
    assert abs(np.mean(found) - np.mean(expected)) < 4 * spread


@needs_tff
def test_an_aggregator_and_its_state(make_tff_task):
    # its view of how large updates are goes with the ServerState: another engine goes on with it
    task = make_tff_task(tff_aggregator="robust", client_lr=0.01)
    algorithm, state = start(task)
    first = TffEngine(task)
    middle = run_round(first, algorithm, state, COHORT).state
    assert middle.optimizer["aggregator"]
    at_once = run_round(first, algorithm, middle, COHORT).state
    resumed = run_round(TffEngine(task), algorithm, middle, COHORT).state
    for name, weights in at_once.weights.items():
        np.testing.assert_allclose(resumed.weights[name], weights, atol=1e-7)
    assert at_once.optimizer == resumed.optimizer != middle.optimizer


@needs_tff
@pytest.mark.parametrize("aggregator", ["compression", "dp"])
def test_aggregators_run(make_tff_task, aggregator):
    noise = {"tff_noise": 0.3} if aggregator == "dp" else {}
    task = make_tff_task(tff_aggregator=aggregator, **noise)
    algorithm, state = start(task)
    result = run_round(TffEngine(task), algorithm, state, COHORT)
    moved = result.state.weights["rows"] - state.weights["rows"]
    assert np.isfinite(moved).all() and moved.any()
    # noise moves even the rows of values that nobody in the cohort has
    assert (aggregator == "dp") == bool(moved.all())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"engine": "tff", "tff_noise": 0.5},
            "`tff_noise` has no effect with `tff_aggregator` none. Use `tff_aggregator` dp, or "
            "leave it out.",
        ),
    ],
)
def test_settings_without_effect(given, message):
    with pytest.raises(ConfigError) as error:
        config.load(given)
    assert str(error.value) == message


@needs_tff
def test_too_much_noise(make_tff_task):
    with pytest.raises(ConfigError) as error:
        TffEngine(make_tff_task(tff_aggregator="dp"))
    assert str(error.value) == (
        "`tff_noise` is 1, but with 6 clients in a round it must be below 0.6, or adaptive "
        "clipping drowns in its own noise."
    )


@needs_tff
def test_the_mean_over_owners_is_refused(make_tff_task):
    task = make_tff_task(mean="owners")
    with pytest.raises(ConfigError) as error:
        run_round(TffEngine(task), *start(task), COHORT)
    assert str(error.value) == "`engine` tff knows only fed_avg, not fed_sub_avg."


@needs_tff
def test_a_loss_that_is_not_a_number_stops(make_tff_task):
    task = make_tff_task(client_optimizer="sgd", client_lr=1e38)
    with pytest.raises(TrainingError) as error:
        run_round(TffEngine(task), *start(task), COHORT)
    assert str(error.value) == (
        "training loss became NaN in round 1 (TensorFlow Federated does not say for which "
        "client). Try a smaller `client_lr` (now 1e+38) or `server_lr` (now 1)."
    )


@needs_no_tff
def test_elsewhere_it_says_what_to_run(make_tff_task):
    with pytest.raises(ConfigError) as error:
        TffEngine(make_tff_task())
    assert str(error.value) == (
        "`engine` tff needs the environment that `make tff` creates (Python 3.11, TensorFlow "
        "Federated 0.87): run .venv-tff/bin/fedgru in place of fedgru."
    )


def is_gone(process, timeout_s=10):
    import psutil

    for _ in range(timeout_s * 20):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def worker_of(pid, cpu_s=0.0, timeout_s=120):
    """Wait until a process has a worker that has used some processor time; return it."""
    import psutil

    for _ in range(timeout_s * 10):
        for child in psutil.Process(pid).children():
            if child.name() == "worker_binary" and child.cpu_times().user >= cpu_s:
                return child
        time.sleep(0.1)
    raise AssertionError("no worker at work")


OPTIONS = "--engine tff --mean clients"


@needs_tff
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_no_worker_outlives_a_signal_in_the_middle_of_a_round(tmp_path, name):
    with training_for_long(tmp_path, OPTIONS) as program:
        worker = worker_of(program.pid, cpu_s=2.0)
        program.send_signal(getattr(signal, name))
        # a worker that held stdout would keep this from ending
        stdout, stderr = program.communicate(timeout=30)
    assert is_gone(worker)
    assert stdout == ""
    assert stderr.count("worker listens on port") == 1  # said where it is read, and once
    if name == "SIGKILL":
        assert program.returncode == -signal.SIGKILL
    else:
        said, code = {"SIGINT": ("Ctrl-C", 130), "SIGTERM": ("SIGTERM", 143)}[name]
        assert program.returncode == code
        assert f"\nError: stopped by {said} before round 1. " in stderr
        assert "Traceback" not in stderr


@needs_tff
def test_no_worker_outlives_an_exception_and_the_next_round_gets_another(
    make_tff_task, monkeypatch
):
    import psutil

    engine = TffEngine(make_tff_task())
    algorithm, state = start(engine.task)
    first = run_round(engine, algorithm, state, COHORT)
    worker = psutil.Process(engine._worker.pid)
    with monkeypatch.context() as patch, pytest.raises(TypeError):
        patch.setattr("fedgru.engines.tff.model.to_data_set", lambda *_: "no data set")
        run_round(engine, algorithm, state, COHORT)
    assert is_gone(worker)
    again = run_round(engine, algorithm, state, COHORT)
    assert again.metrics == pytest.approx(first.metrics)


@needs_tff
def test_no_worker_outlives_its_engine(make_tff_task):
    import psutil

    def work():
        engine = TffEngine(make_tff_task())
        run_round(engine, *start(engine.task), COHORT)
        worker = psutil.Process(engine._worker.pid)
        assert worker.is_running()
        return worker

    worker = work()
    gc.collect()
    assert is_gone(worker)


@needs_tff
def test_a_worker_that_is_lost_ends_training_with_a_message(tmp_path):
    with training_for_long(tmp_path, OPTIONS) as program:
        worker = worker_of(program.pid, cpu_s=2.0)
        worker.kill()
        _, stderr = program.communicate(timeout=60)
    assert program.returncode == 1
    assert (
        "\nError: TensorFlow Federated's worker ended by itself (exit code -9). If memory ran out, "
        "try a smaller --threads or --clients-per-round. It printed: "
    ) in stderr
