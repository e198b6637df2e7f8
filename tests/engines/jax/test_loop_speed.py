"""fedgru/engines/jax/loop_speed.py: `--local-loop auto` takes what is faster on this machine."""

import json
import logging
import shutil
import time

import jax
import pytest

from fedgru import algorithms
from fedgru.core import cache, seeding
from fedgru.engines.jax import loop_speed
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.jax.local_steps import run_steps
from fedgru.engines.jax.loop_speed import LoopSpeeds
from fedgru.engines.jax.native import compiler
from fedgru.workflows import train as train_workflow
from tests.conftest import slow_but

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")

LONG = 10**6  # rounds: worth a measurement


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """An empty cache, and a library that is looked for anew in this test and after it."""
    monkeypatch.setenv("FEDGRU_CACHE", str(tmp_path / "kept"))
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O0"))  # compiles in a third of it
    compiler.first_try.cache_clear()
    yield monkeypatch
    compiler.first_try.cache_clear()


@pytest.fixture
def slow_c(fresh, tmp_path):
    """The C code sleeps for 20 ms in each local step."""
    header = tmp_path / "slow.h"
    header.write_text(
        "#include <math.h>\n#include <unistd.h>\n#define powf(a, b) (usleep(10000), powf(a, b))\n"
    )
    fresh.setenv("CC", f"cc -include {header}")


@pytest.fixture
def slow_xla(fresh):
    """XLA's code waits for 50 ms for each client."""

    def slow_steps(*args, **kwargs):
        jax.debug.callback(lambda: time.sleep(0.05))
        return run_steps(*args, **kwargs)

    fresh.setattr("fedgru.engines.jax.engine.run_steps", slow_steps)


def chosen(make_task, **given):
    engine = JaxEngine(make_task(rounds=LONG, **given))
    engine.choose_local_loop()
    return engine


def test_takes_xla_where_the_c_code_is_slow(slow_c, make_task):
    engine = chosen(make_task)
    assert engine.what_runs_steps == "local steps by XLA" and engine.prefers_xla
    found, times = str(engine).split("local steps by XLA, ")[1].split(" ", 1)
    assert times == "times the C code's speed here)" and float(found) > 1.5
    updates = list(engine.local_updates(start_of(engine), [0, 1], 1))
    assert len(updates) == 2 and engine.local_loops_compiled > 0


@pytest.mark.parametrize("head", ["dense", "candidates"])
def test_takes_the_c_code_where_xla_is_slow(slow_xla, make_task, head):
    engine = chosen(make_task, head=head)
    assert engine.what_runs_steps == "local steps in C" and not engine.prefers_xla
    found, times = str(engine).split("local steps in C, ")[1].split(" ", 1)
    assert times == "times XLA's speed here)" and float(found) > 1.5
    compiled = engine.local_loops_compiled
    list(engine.local_updates(start_of(engine), [0, 1], 1))
    assert engine.local_loops_compiled == compiled == 1


def start_of(engine):
    return engine.task.spec.init_weights(seeding.rng(0, "weights"))


@pytest.mark.slow
def test_the_log_says_what_was_found(slow_xla, make_task, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    task = make_task(rounds=LONG)
    with pytest.raises(ZeroDivisionError):
        train_workflow.train(task, {}, tmp_path / "log", on_round=lambda *_: 1 / 0)
    (line,) = [text for text in caplog.messages if text.startswith("run folder")]
    assert "1 thread; local steps in C, " in line and line.endswith(" times XLA's speed here)")


def test_the_answer_is_kept_beside_the_library(slow_c, make_task):
    first = chosen(make_task)
    folder = cache.compiled_folder()
    assert sorted(file.name for file in folder.iterdir())[0] == loop_speed.FILE
    (kept,) = json.loads((folder / loop_speed.FILE).read_text()).values()
    assert kept["native_s"] > kept["xla_s"] > 0
    again = JaxEngine(make_task(rounds=LONG))  # also where nothing is trained
    assert again.prefers_xla and str(again) == str(first)
    assert JaxEngine(make_task(), heeds_speeds=False).what_runs_steps == "local steps in C"
    assert JaxEngine(make_task(local_loop="native")).what_runs_steps == "local steps in C"
    assert JaxEngine(make_task(hidden_dim=9)).what_runs_steps == "local steps in C"
    assert JaxEngine(make_task(hidden_dim=7)).prefers_xla  # as 8: neighbours share an answer


DAMAGED = '{"a": ', '{"a": {"native_s": 1}}', '{"a": {"native_s": -1.0, "xla_s": 1.0}}', "[]"


@pytest.mark.parametrize("content", slow_but(DAMAGED, "[]"))
def test_a_damaged_answer_is_told_and_found_anew(slow_xla, make_task, caplog, content):
    file = cache.compiled_folder() / loop_speed.FILE
    file.write_text(content)
    engine = chosen(make_task)
    assert engine.what_runs_steps == "local steps in C"
    assert caplog.messages[0].startswith(f"{file} cannot be used, local loops are timed anew: ")
    (kept,) = json.loads(file.read_text()).values()
    assert kept["xla_s"] > kept["native_s"]


def test_a_short_training_is_not_kept_waiting(slow_c, make_task):
    engine = JaxEngine(make_task(rounds=2))
    engine.choose_local_loop()
    assert engine.what_runs_steps == "local steps in C" and engine.local_loops_compiled == 0
    assert not (cache.compiled_folder() / loop_speed.FILE).exists()


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_what_it_had(slow_c, make_task):
    engine = chosen(make_task)  # by XLA
    engine.choose_local_loop("jax on cpu, local steps in C")
    assert engine.computes_with == "jax on cpu, local steps in C"
    engine.choose_local_loop("jax on cpu, local steps by XLA")
    assert engine.computes_with == "jax on cpu, local steps by XLA"


def test_all_that_speed_depends_on_is_in_the_sizes(make_task):
    plain = {"local_loop": "xla"}

    def sizes(threads=1, **other):
        task = make_task(**plain, **other)
        rule = algorithms.from_settings(task.settings).client_rule
        return loop_speed.sizes(task, rule, threads)

    base = sizes()
    assert base == (
        "hidden 8, batch 2, seq 8, classes 16, ids 4, numbers 16, adam, 1 threads, prior"
    )
    for other in (
        {"hidden_dim": 16},
        {"batch_size": 4},
        {"seq_len": 9},
        {"dropout": 0.1},
        {"prior": "none"},
        {"client_optimizer": "sgd"},
        {"prox_mu": 0.1},
        {"features": "category"},
        {"target": "venue"},
    ):
        assert sizes(**other) != base, other
    assert sizes(threads=2) != base


def test_how_long_a_training_takes(make_task):
    # 6 clients: 1.0 s for 3 local steps of 10 pairs, on 2 threads
    task = make_task(rounds=5, local_epochs=3)
    pairs = sum(
        max(end - start - 1, 0)
        for start, end in zip(task.clients.starts[:-1], task.clients.train_ends, strict=True)
    )
    expected = 5 * pairs * 3 / 10 / 3 / 2 * 1.0
    assert loop_speed.run_seconds(task, 3, 2, 1.0) == pytest.approx(expected)
    half = make_task(rounds=5, local_epochs=3, clients_per_round=3)
    assert loop_speed.run_seconds(half, 3, 2, 1.0) == pytest.approx(expected / 2)


def test_which_is_faster():
    assert LoopSpeeds(1.0, 2.6).native_is_faster and not LoopSpeeds(2.8, 2.0).native_is_faster
    assert str(LoopSpeeds(1.0, 2.6)) == "2.6 times XLA's speed here"
    assert str(LoopSpeeds(2.8, 2.0)) == "1.4 times the C code's speed here"
