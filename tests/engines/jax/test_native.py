"""Local steps in C give XLA's numbers at every size, or say why they cannot run."""

import functools
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fedgru.core import seeding
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.jax.native import compiler
from fedgru.engines.jax.native.calls import NativeCode
from fedgru.models import gru
from fedgru.task.task import Task
from fedgru.testing import largest_gap
from fedgru.training.rounds import run_round
from tests import emulated
from tests.conftest import slow_but, start, training_for_long

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler (cc)")


@pytest.fixture(scope="session")
def engines(make_task):
    """Two engines of one task: the C code, and XLA."""

    def make(**given):
        found = [JaxEngine(make_task(local_loop=loop, **given)) for loop in ("native", "xla")]
        return SimpleNamespace(native=found[0], xla=found[1])

    return make


def gaps(engines, cohort=(0, 2, 5), seed=0):
    """How far the updates of the two engines are apart: weights, loss and hits; or NaN."""
    weights = engines.xla.task.spec.init_weights(seeding.rng(seed, "weights"))
    draw = np.random.default_rng(seed)
    for name in weights:
        if name.startswith("candidate_"):  # some are zero at the start, and hide gradients
            weights[name] = weights[name] + draw.normal(0, 0.1, weights[name].shape).astype("f")
    found = list(engines.native.local_updates(weights, cohort, 1))
    expected = list(engines.xla.local_updates(weights, cohort, 1))
    found_gaps = []
    for update, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(update.row_ids, other.row_ids)
        assert update.num_examples == other.num_examples
        assert np.abs(other.dense["recurrent"]).max() > 0
        found_gaps += [
            largest_gap(changes(update), changes(other)),
            abs(update.loss_sum - other.loss_sum) / (1e-5 * other.loss_sum),
            10 * abs(update.num_correct - other.num_correct),
        ]
    return np.max(found_gaps)


def test_a_gap_that_is_no_number_is_seen(engines_for_faults, tmp_path):
    use(
        engines_for_faults,
        compiler.load_from(plant("moments of a fresh row are not zero", tmp_path)),
    )
    memory = engines_for_faults.native._native._memory
    memory.append(np.full(1 << 24, 0xFF, np.uint8))  # NaN everywhere
    assert np.isnan(gaps(engines_for_faults))


def changes(update):
    """All that a client sends, but what is empty: a model may have no tables, or no numbers."""
    arrays = {"rows": update.row_update, **update.dense}
    return {name: array for name, array in arrays.items() if array.size}


CANDIDATES = {"head": "candidates", "client_optimizer": "sgd", "client_lr": 0.1}
SIZES = {
    "as small as can be": {"hidden_dim": 1, "batch_size": 1, "seq_len": 1},
    "one block and a bit": {"hidden_dim": 17, "batch_size": 3, "seq_len": 4},
    "whole blocks": {"hidden_dim": 64, "batch_size": 8, "seq_len": 4},
    "more rows than a tile": {"hidden_dim": 33, "batch_size": 9, "seq_len": 7},
    "dropout": {"hidden_dim": 20, "dropout": 0.4, "local_epochs": 3},
    "many classes": {"target": "venue", "prior": "markov"},
    "one feature": {"features": "category"},
    "numbers alone": {"features": "gap,clock"},
    "proximal": {"hidden_dim": 24, "prox_mu": 3.0},
    "client sgd": {"client_optimizer": "sgd", "client_lr": 0.1},
    # by SGD: where a feature is rare, its gradient passes near zero, and Adam's step with it
    "candidates": CANDIDATES | {"hidden_dim": 17, "batch_size": 3, "head_dim": 20},
    "candidates, whole blocks": CANDIDATES | {"hidden_dim": 32, "head_dim": 48},
    "candidates, one unit": CANDIDATES | {"hidden_dim": 1, "head_dim": 1, "seq_len": 1},
    "candidates, proximal": CANDIDATES | {"hidden_dim": 8, "head_dim": 50, "prox_mu": 3.0},
    "candidates, asked": CANDIDATES | {"asked_at": True, "hidden_dim": 8, "head_dim": 20},
    "candidates, venues": CANDIDATES | {"target": "venue", "hidden_dim": 8},
}


@pytest.fixture(scope="session")
def engines_of_size(engines):
    """The engines of one of SIZES; XLA compiles it once for all tests."""
    return functools.cache(lambda size: engines(**({"client_lr": 0.003} | SIZES[size])))


QUICK = "one block and a bit", "dropout", "candidates"


@pytest.mark.parametrize("size", slow_but(SIZES, *QUICK))
def test_equals_what_xla_computes(engines_of_size, size):
    both = engines_of_size(size)
    use(both, compiler.load())
    assert gaps(both) < 1
    assert both.native._native.clients_trained == 3
    assert both.native.local_loops_compiled == 0 and both.xla.local_loops_compiled > 0


@pytest.mark.parametrize("size", ["one block and a bit", "whole blocks", "many classes"])
def test_walks_to_the_same_states(engines, size):
    both = engines(threads=2, **SIZES[size])
    weights = gru.init_weights(both.xla.task.spec, seeding.rng(0, "weights"))
    bounds = both.xla.task.clients.starts
    wanted = np.arange(bounds[-1])[::3]
    found = both.native.hidden_states(weights, bounds[:-1], bounds[1:], wanted)
    expected = both.xla.hidden_states(weights, bounds[:-1], bounds[1:], wanted)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    np.testing.assert_array_equal(
        found, both.native.hidden_states(weights, bounds[:-1], bounds[1:], wanted, carried=True)
    )


# What a hand may well get wrong, and what then must not pass for right.
FAULTS = {
    "the state is not carried on": ("if (at == 0)", "if (1)"),
    "the state is carried into the next pass": ("if (at == 0)", "if (step == 0)"),
    "the state carried on is taken for zero": ("s->zero = at == 0 &&", "s->zero ="),
    "states and gradients are out of step": ("(u * s->P + s->zero) * KEPT", "u * s->P * KEPT"),
    "the gradient stops at a time step": ("d += load(s->d_hidden", "d = load(s->d_hidden"),
    "the state's own path is forgotten": ("d += load(s->carried", "d += 0 * load(s->carried"),
    "the reset gate has no gradient": ("d_candidate * candidate_h", "0 * candidate_h"),
    "gates are mixed up": ("AS_PULLED[GATES] = {2, 0, 1}", "AS_PULLED[GATES] = {2, 1, 0}"),
    "the state's bias stands still": ("g * LANES, d[g], s->fresh", "g * LANES, 0 * d[g], s->fresh"),
    "moments are dropped": ("fresh ? (vec){0} : load(slots.m + at)", "(vec){0}"),
    "moments of a fresh row are not zero": ("!s->touched[row];", "0;"),
    "a row not read now stands still": ("use == end && !s->touched[row]", "use == end"),
    "Adam counts from two": ("powf(0.999f, (float)(step + 1))", "powf(0.999f, (float)(step + 2))"),
    "the prior counts as it stands": ("(vec){s->d_prior_scale}", "(vec){0}"),
    "the mean is over padding too": ("num_targets += s->job->mask[from + i]", "num_targets += 1"),
    "dropout is drawn for fewer rows": ("b * (job->num_table + count)", "b * (own + count)"),
    "the proximal term is forgotten": ("if (slots.received) gradient", "if (0) gradient"),
    "the proximal term pulls away": (
        "(w - load(slots.received + at))",
        "(load(slots.received + at) - w)",
    ),
    "rows received are not kept": ("keep_received(s->rows), ", ""),
    "the gradient of a dropped input is kept": ("d[g] += use->scale * load", "d[g] += load"),
}

FAULTS_OF_CANDIDATES = {
    "the state is not read": ("of_state[i] + of_context[i]", "0 * of_state[i] + of_context[i]"),
    "the state has no gradient": ("s->P * PANEL, PANEL, s->E / PANEL}", "s->P * PANEL, PANEL, 0}"),
    "the activation's gradient is its value": ("share * (1.0f + z * (1.0f - share))", "share"),
    "units are not dropped": ("if (job->head_kept < 1.0f)", "if (0)"),
    "a dropped unit has a gradient": ("d * load(s->unit_scale + e) * z", "d * z"),
    "the last rows are forgotten": ("row < count; row += ROWS", "row + ROWS <= count; row += ROWS"),
    "somewhere new is any new class": (" + job->log_within[from + i]", ""),
    "the top of what is new is not": (" + job->log_top[from + i]", ""),
    "the context is that of the row before": ("s->context + p * s->G", "s->context"),
    "kinds stand still": ("adjust_all(s, s->kinds, s->d_kinds, size);", ""),
    "the kernel of kinds stands still": (
        "adjust(s, s->of_kind, d",
        "if (0) adjust(s, s->of_kind, d",
    ),
    "a kind's bias stands still": ("s->d_kind_bias[kind] += d;", ""),
    "the old kernel of the state": ("if (!s->last) transpose_candidate_state(s);", ""),
    "the prior's scale stands still": ("d_prior_scale += d * log_prior[c];", ""),
}


@pytest.fixture(scope="module")
def engines_for_faults(engines):
    return engines(client_lr=0.003, dropout=0.3, hidden_dim=17, local_epochs=2, prox_mu=3.0)


@pytest.fixture(scope="module")
def engines_of_candidates(engines):
    return engines(
        **CANDIDATES,
        **{"dropout": 0.3, "hidden_dim": 17, "local_epochs": 4},
        **{"head_dim": 20, "batch_size": 3, "seq_len": 5},
    )


@pytest.mark.parametrize(
    "fault", slow_but(FAULTS | FAULTS_OF_CANDIDATES, *list(FAULTS | FAULTS_OF_CANDIDATES)[::4])
)
def test_a_fault_in_the_c_code_is_seen(request, tmp_path, fault, monkeypatch):
    monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O1"))  # compiles in half the time
    name = "engines_of_candidates" if fault in FAULTS_OF_CANDIDATES else "engines_for_faults"
    both = request.getfixturevalue(name)
    use(both, compiler.load())
    assert gaps(both) < 1
    use(both, compiler.load_from(plant(fault, tmp_path)))
    dirty = np.full(1 << 24, 0x3F, np.uint8)  # what lies in memory is no zero
    both.native._native._memory.append(dirty)
    assert not gaps(both) < 10


def plant(fault, folder):
    """Return a copy of the C code's folder with a fault in it."""
    planted = folder / "native"
    shutil.copytree(compiler.FOLDER, planted)
    right, wrong = (FAULTS | FAULTS_OF_CANDIDATES)[fault]
    (file,) = (file for file in planted.glob("*.h") if right in file.read_text())
    assert file.read_text().count(right) == 1
    file.write_text(file.read_text().replace(right, wrong))
    return planted


def use(engines, library):
    """Let the C engine call another library."""
    task = engines.native.task
    engines.native._native = NativeCode(task.spec, engines.native.client_rule, library)


# Instruction sets, and how many floats one register of theirs holds.
LANES = {"x86-64-v2": 4, "x86-64-v3": 8, "x86-64-v4": 16}


@pytest.fixture(params=["gcc", "clang"])
def c_compiler(request, monkeypatch):
    """Each of the two compilers as CC."""
    if shutil.which(request.param) is None:
        pytest.skip(f"needs {request.param}")
    monkeypatch.setenv("CC", request.param)
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("instruction_set", LANES)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs an x86-64")
def test_every_instruction_set(engines_of_size, monkeypatch, c_compiler, instruction_set):
    if not runs(instruction_set):
        pytest.skip(f"this processor does not run {instruction_set}")
    flags = (*compiler.FLAGS, f"-march={instruction_set}")
    assert lanes(c_compiler, flags) == LANES[instruction_set]
    monkeypatch.setattr(compiler, "FLAGS", flags)
    library = compiler.load_from(compiler.FOLDER)
    for size in SIZES:
        both = engines_of_size(size)
        use(both, library)
        both.native._native._memory.append(np.full(1 << 24, 0xFF, np.uint8))  # NaN everywhere
        assert gaps(both) < 1, size
        assert both.native._native.clients_trained == 3
        assert forward_gap(both) < 2e-6, size


def runs(instruction_set):
    """Whether this processor knows all that `instruction_set` asks for."""
    needed = {"x86-64-v2": {"sse4_2"}, "x86-64-v3": {"avx2", "fma", "bmi2"}}
    needed["x86-64-v4"] = {"avx512f", "avx512vl", "avx512bw", "avx512dq", "avx512cd"}
    facts = Path("/proc/cpuinfo")
    return facts.exists() and needed[instruction_set] <= set(facts.read_text().split())


def lanes(c_compiler, flags):
    """How many floats the C code takes at a time, as the compiler is told."""
    header = str(compiler.FOLDER / "vectors.h")
    flags = [flag for flag in flags if flag != "-shared"]
    asked = [c_compiler, *flags, "-E", "-dM", "-x", "c", header]
    found = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"#define LANES (\d+)", found)[1])


def forward_gap(engines):
    """How far the states of the two engines are apart."""
    weights = gru.init_weights(engines.xla.task.spec, seeding.rng(0, "weights"))
    bounds = engines.xla.task.clients.starts
    wanted = np.arange(bounds[-1])[::3]
    found = engines.native.hidden_states(weights, bounds[:-1], bounds[1:], wanted)
    return np.abs(found - engines.xla.hidden_states(weights, bounds[:-1], bounds[1:], wanted)).max()


needs_emulator = pytest.mark.skipif(
    bool(emulated.MISSING),
    reason=f"needs {' and '.join(emulated.MISSING)} (Debian: gcc-aarch64-linux-gnu, qemu-user)",
)


@pytest.fixture(scope="module")
def aarch64(tmp_path_factory):
    return emulated.Aarch64Library(compiler.FOLDER, tmp_path_factory.mktemp("aarch64"))


@needs_emulator
@pytest.mark.parametrize("size", slow_but(SIZES, *QUICK))
def test_on_aarch64(engines_of_size, aarch64, size):
    both = engines_of_size(size)
    use(both, aarch64)
    before = aarch64.calls
    assert gaps(both) < 1
    assert aarch64.calls == before + 3
    assert forward_gap(both) < 2e-6
    assert aarch64.calls > before + 3


@needs_emulator
@pytest.mark.parametrize("fault", slow_but(FAULTS, "gates are mixed up"))
def test_a_fault_is_seen_on_aarch64(engines_for_faults, tmp_path, fault):
    both = engines_for_faults
    use(both, emulated.Aarch64Library(plant(fault, tmp_path), tmp_path))
    assert not gaps(both) < 10


@pytest.mark.parametrize("size", slow_but(("dropout", "more rows than a tile"), "dropout"))
def test_it_does_not_read_what_it_has_not_written(engines, size):
    both = engines(client_lr=0.003, **SIZES[size])
    both.native._native._memory.append(np.full(1 << 24, 0xFF, np.uint8))  # NaN everywhere
    assert gaps(both) < 1
    weights = gru.init_weights(both.xla.task.spec, seeding.rng(0, "weights"))
    bounds = both.xla.task.clients.starts
    both.native._native._memory.append(np.full(1 << 24, 0xFF, np.uint8))
    states = both.native.hidden_states(weights, bounds[:-1], bounds[1:], np.arange(bounds[-1]))
    assert np.isfinite(states).all()


def test_a_step_without_a_target_moves_by_its_moments_alone(engines):
    both = engines(client_lr=0.003, local_epochs=2)
    for engine in (both.native, both.xla):
        for client in (0, 2, 5):
            data = engine._prepare(client)
            data.arrays[3][1] = 0.0  # the mask of the second step
    assert gaps(both) < 1


def test_threads_share_it(make_task):
    task = make_task(threads=4, dropout=0.3, local_loop="native")
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    engine = JaxEngine(task)
    cohort = [0, 1, 2, 3, 4, 5] * 4
    updates = list(engine.local_updates(weights, cohort, 1))
    for update, again in zip(updates, updates[6:], strict=False):
        assert update.client == again.client and update.loss_sum == again.loss_sum
        np.testing.assert_array_equal(update.row_update, again.row_update)
        for name, array in update.dense.items():
            np.testing.assert_array_equal(array, again.dense[name])


def test_threads_end_with_who_asks_for_updates(make_task):
    task = make_task(threads=3, local_epochs=50, local_loop="native")
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    engine, before = JaxEngine(task), threading.active_count()
    updates = engine.local_updates(weights, [0, 1, 2, 3, 4, 5] * 20, 1)
    assert next(updates).client == 0
    assert threading.active_count() == before + 3
    updates.close()
    assert threading.active_count() == before
    assert len(engine._native._memory) == 3
    assert [update.client for update in engine.local_updates(weights, [4, 1], 1)] == [4, 1]


def test_an_error_while_a_client_is_prepared_is_raised(make_task, monkeypatch):
    task = make_task(threads=2, local_loop="native")
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    engine, local_data, before = JaxEngine(task), Task.local_data, threading.active_count()

    def fail_at_4(task, client, *given):
        return local_data(task, client, *given) if client != 4 else 1 / 0

    monkeypatch.setattr(Task, "local_data", fail_at_4)
    with pytest.raises(ZeroDivisionError):
        list(engine.local_updates(weights, [0, 1, 4, 2], 1))
    assert threading.active_count() == before


def test_a_thread_that_cannot_go_on_is_told(make_task, monkeypatch):
    task = make_task(threads=1, local_loop="native")
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    engine, before = JaxEngine(task), threading.active_count()
    space = NativeCode.space

    def too_little(native, size_bytes):
        if size_bytes > 1:
            raise MemoryError("none is left")
        return space(native, size_bytes)

    monkeypatch.setattr(NativeCode, "space", too_little)
    with pytest.raises(MemoryError, match="none is left"):
        list(engine.local_updates(weights, [0, 1], 1))
    assert threading.active_count() == before


def test_an_interrupt_while_threads_end_waits_for_them(make_task, monkeypatch):
    task = make_task(threads=2, local_loop="native")
    weights = gru.init_weights(task.spec, seeding.rng(0, "weights"))
    made = []

    class Interrupted(threading.Event):
        """Set late, so that it is waited for; who waits is interrupted the first time."""

        def __init__(self):
            super().__init__()
            self.times_waited = 0
            made.append(self)

        def set(self):
            time.sleep(0.3)
            super().set()

        def wait(self, timeout=None):
            self.times_waited += 1
            if self.times_waited == 1:
                raise KeyboardInterrupt
            return super().wait(timeout)

    monkeypatch.setattr("fedgru.engines.jax.native.calls.Event", Interrupted)
    updates = JaxEngine(task).local_updates(weights, [0, 1, 2] * 20, 1)
    next(updates)
    with pytest.raises(KeyboardInterrupt):
        updates.close()
    assert [event.is_set() for event in made] == [True, True]
    assert made[0].times_waited == 2


LEFT_OPEN = """
import sys
from pathlib import Path
from fedgru import config
from fedgru.agnostic import protection
from fedgru.data import synthetic
from fedgru.data.datasets import open_data_set, save_city
from fedgru.engines.jax.engine import JaxEngine
from fedgru.task.task import build_task

folder = Path(sys.argv[1])
city = synthetic.make_city(synthetic.CityConfig(num_users=4, checkins_per_user=30))
save_city("town", folder, city)
given = {"data": "town", "prior": "none", "hidden_dim": 8, "local_loop": "native", "threads": 2}
task = build_task(open_data_set("town", folder), config.load(given))
updates = JaxEngine(task).local_updates(protection.init_weights(task), [0, 1, 2, 3], 1)
print(next(updates).client)
"""


def test_a_program_may_end_in_the_midst_of_a_round(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.returncode) == ("0\n", 0), done.stderr[-3000:]


@pytest.mark.slow
def test_ctrl_c_does_not_wait_for_a_round_of_hours(tmp_path):
    with training_for_long(tmp_path, "--engine jax") as program:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("*/run.log")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(3)  # the C code is compiled, and round 1 is under way
        program.send_signal(signal.SIGINT)
        printed = program.communicate(timeout=30)
    assert program.returncode == 130, printed


def test_numbers_that_overflow_are_told(make_task):
    task = make_task(client_lr=1e30, client_optimizer="sgd", local_loop="native")
    algorithm, state = start(task)
    with pytest.raises(TrainingError, match="training loss became NaN in round 1"):
        run_round(JaxEngine(task), algorithm, state, task.training_clients)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"cell": "lstm"}, "it knows no lstm"),
        ({"clients_per_call": 3}, "it trains one client in a call"),
        ({"agnostic_to": "weekend"}, "it knows no protected concept"),
    ],
)
def test_what_it_does_not_know_is_done_by_xla_and_said(make_task, given, why):
    assert JaxEngine(make_task(device="cpu", **given)).what_runs_steps == (
        f"local steps by XLA: the C code cannot be used, {why}"
    )
    with pytest.raises(ConfigError) as error:
        JaxEngine(make_task(device="cpu", local_loop="native", **given))
    assert str(error.value) == (
        f"`local_loop` native: the C code cannot be used: {why}. Use `local_loop` auto, which then "
        "takes XLA's."
    )


# A client of odd sizes, of random numbers, twice over: without JAX, which would be slow there.
WATCHED = """
from types import SimpleNamespace
import numpy as np
from fedgru.algorithms.client_rule import ClientRule
from fedgru.models.gru import ModelSpec, init_weights
from fedgru.engines.jax.native import compiler
from fedgru.engines.jax.native.calls import Cohort, NativeCode

class Data(SimpleNamespace):
    __hash__ = object.__hash__

rng = np.random.default_rng(0)
for hidden, batch, length, classes, prior in ((33, 3, 4, 35, True), (64, 16, 8, 32, False)):
    spec = ModelSpec("gru", 50, 3, hidden, classes, 0.3, prior)
    shape = 2, length, batch
    mask = (rng.random(shape) < 0.7).astype(np.float32)
    data = Data(
        row_ids=np.array([3, 7, 49], np.int32), num_table=128, steps=2, passes=2,
        resets=(rng.random((2, batch)) < 0.5).astype(np.uint8) if prior else None,
        arrays=(rng.integers(-1, 3, (*shape, 2)), rng.random((*shape, 3)),
                rng.integers(0, classes, shape), mask,
                rng.random((*shape, classes)) if prior else None, None))
    rule = ClientRule(client_lr=0.01, prox_mu=0.1 if prior else 0.0)
    native = NativeCode(spec, rule, compiler.load())
    with Cohort(native, native.weights(init_weights(spec, rng)), 2, 3) as cohort:
        trained = [cohort.train(data, np.array([1, 2], np.uint32)) for _ in range(3)]
        assert all(cohort.wait_for(one) for one in trained)
    for one in trained:
        assert one.sums[0] == trained[0].sums[0] > 0
        assert all(np.isfinite(u).all() for u in one.update.values())
print("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("watched", "library"), [("address,undefined", "libasan.so"), ("thread", "libtsan.so")]
)
def test_under_a_sanitizer(watched, library):
    """Nothing is read or written outside of arrays, or by two threads at once."""
    asked = ["cc", f"-print-file-name={library}"]
    sanitizer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(sanitizer):
        pytest.skip(f"the compiler has no {library}")
    sanitized = {
        "CC": f"cc -fsanitize={watched} -fno-sanitize-recover=all",
        "LD_PRELOAD": sanitizer,
        "ASAN_OPTIONS": "detect_leaks=0",
        "TSAN_OPTIONS": "exitcode=66",
    }
    done = subprocess.run(
        [sys.executable, "-c", WATCHED],
        env=os.environ | sanitized,
        capture_output=True,
        text=True,
    )
    if "unexpected memory mapping" in done.stderr:
        pytest.skip(f"{library} does not run here: it found an unexpected memory mapping")
    assert (done.stdout, done.returncode) == ("done\n", 0), done.stderr[-3000:]
