"""fedgru/engines/ray: the same numbers whatever the actors do, and nothing left behind."""

import contextlib
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.cli.main import main
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.core.versions import installed_versions
from fedgru.data import datasets
from fedgru.engines.jax.engine import JaxEngine
from fedgru.engines.ray import actors as ray_actors
from fedgru.engines.ray import connection as ray_connection
from fedgru.engines.ray.actors import Actors
from fedgru.engines.ray.engine import RayEngine, cut_cohort
from fedgru.runs import folder as run_folder
from fedgru.runs import listing
from fedgru.training.rounds import run_round
from fedgru.training.simulated_time import SimulatedTraining, open_simulation
from fedgru.workflows import open as open_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import needs_ray, start, training_for_long

pytestmark = pytest.mark.dist


@pytest.fixture
def make_ray_task(make_task):
    """The small task with dropout, for two actors, two clients in a work item."""
    given = {"engine": "ray", "ray_actors": 2, "ray_item": 2, "dropout": 0.3, "local_epochs": 2}

    def make(**overrides):
        return make_task(**(given | overrides))

    return make


def train(engine, num_rounds=3, cohort=None):
    """Return the ServerState after some rounds, and their RoundResults."""
    algorithm, state = start(engine.task)
    results = []
    with contextlib.closing(engine):
        for _ in range(num_rounds):
            cohort = engine.task.training_clients if cohort is None else cohort
            results.append(run_round(engine, algorithm, state, cohort))
            state = results[-1].state
    return state, results


def same_bytes(found, expected):
    assert found.keys() == expected.keys()
    return all(array.tobytes() == expected[name].tobytes() for name, array in found.items())


def test_work_items_are_balanced():
    # longest first, each to the item with the least: 10 | 7 | 6 | 6+5=11 | 7+4=11 | 10+1=11
    cohort = np.array([20, 21, 22, 23, 24, 25])
    items = cut_cohort(cohort, np.array([1, 5, 10, 4, 7, 6]), clients_per_item=2)
    assert [item.tolist() for item in items] == [[20, 22], [23, 24], [21, 25]]
    # six clients in the order they come would give 6, 14, 13
    assert [item.tolist() for item in cut_cohort(cohort[:1], np.array([3]), 5)] == [[20]]


def test_every_client_is_in_one_item():
    draw = np.random.default_rng(0)
    cohort = np.sort(draw.choice(1000, 333, replace=False))
    sizes = draw.integers(1, 500, 333)
    items = cut_cohort(cohort, sizes, 5)
    assert len(items) == 67
    assert np.array_equal(np.sort(np.concatenate(items)), cohort)
    loads = [sizes[np.isin(cohort, item)].sum() for item in items]
    assert loads == sorted(loads, reverse=True)
    assert loads[0] - loads[-1] <= sizes.max()


@needs_ray
@pytest.mark.parametrize("mean", ["owners", "clients"])
def test_any_number_of_actors_equals_the_jax_engine(make_ray_task, ray_in_place, mean):
    expected, expected_results = train(JaxEngine(make_ray_task(mean=mean)))
    found = {}
    for actors in (1, 2, 4):
        state, results = train(RayEngine(make_ray_task(mean=mean, ray_actors=actors)))
        for name, array in expected.weights.items():
            np.testing.assert_allclose(state.weights[name], array, atol=1e-5, rtol=0)
        for result, other in zip(results, expected_results, strict=True):
            assert result.metrics == pytest.approx(other.metrics, abs=1e-6)
            assert result.num_clients == other.num_clients == 6
            assert result.num_examples == other.num_examples
        found[actors] = state.weights
    # the sums are added in the same order, whoever made them
    assert same_bytes(found[1], found[2]) and same_bytes(found[1], found[4])


SLOW_DEVICES = {"step_s": 60.0, "bandwidth_mbps": 1e9, "device_spread": 0.0}


@needs_ray
@pytest.mark.parametrize(
    ("settings", "late"),
    [
        ({"deadline_min": 7.0}, [[0]] * 3),  # 2 epochs take 8, 6, 6, 6, 4 and 4 minutes each
        ({"deadline_min": 3.9}, [[0, 1, 2, 3, 4, 5]] * 3),
        (
            {"availability": "clock", "window_h": 12, "clients_per_round": 2, "oversample": 1.5},
            None,
        ),
    ],
    ids=["deadline", "a deadline that nobody meets", "clock"],
)
def test_simulated_time_is_that_of_the_jax_engine(make_ray_task, ray_in_place, settings, late):
    found = {}
    for engine_class in (JaxEngine, RayEngine):
        task = make_ray_task(**SLOW_DEVICES | settings)
        algorithm, _ = start(task)
        with contextlib.closing(engine_class(task)) as engine:
            training = SimulatedTraining(engine, algorithm, open_simulation(task))
            state, results = training.init(), []
            for _ in range(3):
                results.append(training.run_round(state, None))
                state = results[-1].state
        found[engine_class] = state, results
    (expected, rounds), (state, ray_rounds) = found.values()
    assert state.simulated == expected.simulated and state.simulated.time_ms > 0
    for ours, theirs in zip(ray_rounds, rounds, strict=True):
        assert (ours.num_clients, ours.faults) == (theirs.num_clients, theirs.faults)
    if late is not None:
        assert [one.faults.get("too late") for one in ray_rounds] == late
    for name, array in expected.weights.items():
        np.testing.assert_allclose(state.weights[name], array, atol=1e-5, rtol=0)


@needs_ray
def test_threads_in_an_actor_change_nothing(make_ray_task, ray_in_place, monkeypatch):
    work, threads = Actors.work, []

    def count_threads(self, *args):
        yield from work(self, *args)
        (place,) = self._places.values()
        pid = re.search(r"process (\d+)", place)[1]
        names = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/comm")]
        threads.append(names.count("tf_XLAEigen\n"))

    monkeypatch.setattr(Actors, "work", count_threads)
    expected, _ = train(RayEngine(make_ray_task(ray_actors=1)), num_rounds=2)
    found, _ = train(RayEngine(make_ray_task(ray_actors=1, ray_cpus=3)), num_rounds=2)
    assert same_bytes(found.weights, expected.weights)
    assert threads == [1, 1, 3, 3]  # XLA's own: as many as the actor has CPUs


@needs_ray
def test_a_part_that_counts_twice_is_seen(make_ray_task, ray_in_place, monkeypatch):
    expected, _ = train(JaxEngine(make_ray_task()))
    work = Actors.work

    def twice(self, *args):
        parts = list(work(self, *args))
        return [*parts, parts[-1]]

    monkeypatch.setattr(Actors, "work", twice)
    found, _ = train(RayEngine(make_ray_task()))
    gap = max(np.abs(found.weights[n] - w).max() for n, w in expected.weights.items())
    assert gap > 1e-4


@needs_ray
@pytest.mark.parametrize(
    "given",
    [
        {"robust": "median"},
        {"robust": "trimmed-mean"},
        {"robust": "krum"},
        {"robust": "bulyan", "liar_share": 0.0},
        {"robust": "geometric-median"},
        {"robust": "centred-clipping", "clip_norm": 0.05},
    ],
    ids=lambda given: given["robust"],
)
def test_robust_means_get_the_updates_one_by_one(make_ray_task, ray_in_place, given):
    given = given | {"attack": "sign-flip", "attackers": 2, "attack_scale": 3.0}
    expected, _ = train(JaxEngine(make_ray_task(**given)))
    found, _ = train(RayEngine(make_ray_task(**given)))
    assert same_bytes(found.weights, expected.weights)  # they put them in order by client


@needs_ray
@pytest.mark.parametrize("attack", ["alie", "inner-product", "backdoor"])
def test_liars_of_all_actors_act_together(make_ray_task, ray_in_place, attack):
    given = {"attack": attack, "attackers": 3, "attack_scale": 1.5}
    expected, _ = train(JaxEngine(make_ray_task(**given)))
    found, _ = train(RayEngine(make_ray_task(**given)))
    for name, array in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], array, atol=1e-5, rtol=0)
    alone, _ = train(JaxEngine(make_ray_task()))
    gap = max(np.abs(alone.weights[name] - w).max() for name, w in expected.weights.items())
    assert gap > 1e-3  # what the test would see if there were no lies


@needs_ray
def test_faults_are_counted_as_on_the_jax_engine(make_ray_task, ray_in_place):
    given = {
        **{"client_dropout": 0.3, "min_clients": 3},
        **{"attack": "noise", "attackers": 2, "attack_scale": 1e5},
    }
    expected, expected_results = train(JaxEngine(make_ray_task(**given)), num_rounds=5)
    found, results = train(RayEngine(make_ray_task(**given)), num_rounds=5)
    assert [result.faults for result in results] == [result.faults for result in expected_results]
    reasons = {why for result in results for why in result.faults}
    assert reasons == {"dropped out", "too large"}
    counts = [result.num_clients for result in results]
    assert counts == [result.num_clients for result in expected_results]
    assert 0 in counts and max(counts) > 0  # a skipped round among them
    for name, array in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], array, atol=1e-5, rtol=0)


@needs_ray
def test_a_loss_that_is_not_a_number_stops_with_the_same_words(make_ray_task, ray_in_place):
    task = make_ray_task(client_optimizer="sgd", client_lr=1e38)
    said = []
    for engine in (JaxEngine(task), RayEngine(task)):
        with pytest.raises(TrainingError) as error:
            train(engine, cohort=np.array([4, 1, 3]))
        said.append(str(error.value))
    assert (
        said[0]
        == said[1]
        == (
            f"training loss became NaN in round 1 (client {task.clients.client_ids[4]} first). "
            "Try a smaller `client_lr` (now 1e+38) or `server_lr` (now 1)."
        )
    )


@needs_ray
def test_a_protected_concept(make_ray_task, ray_in_place):
    # the noise and means of each round go to the actors, the sums of the head come back
    given = {
        "agnostic_to": "weekend",
        "method": "reversal+hsic+noise",
        "alpha_schedule": "constant",
    }
    expected, expected_results = train(JaxEngine(make_ray_task(**given)), num_rounds=2)
    found, results = train(RayEngine(make_ray_task(**given)), num_rounds=2)
    for name, array in expected.weights.items():
        np.testing.assert_allclose(found.weights[name], array, atol=1e-5, rtol=0)
    for result, other in zip(results, expected_results, strict=True):
        assert result.metrics == pytest.approx(other.metrics, abs=1e-5)
        assert {"alpha", "head_loss", "head_acc@1"} < result.metrics.keys()


def kill_after_handing_out(monkeypatch, times, places=1):
    """Let SIGKILL hit an actor that was just given work in round 2; return the list of pids."""
    hand_out, killed = Actors.hand_out, []

    def and_kill(self, queues, running, sent, items):
        hand_out(self, queues, running, sent, items)
        busy = [actor for _, actor in running.values()]
        if self.round_num == 2 and busy and len(killed) < times:
            pid = int(re.search(r"process (\d+)", self._places[busy[0]])[1])
            with contextlib.suppress(ProcessLookupError):  # killed before, and not yet noticed
                os.kill(pid, signal.SIGKILL)
            killed.append(pid)

    work = Actors.work

    def in_round(self, sent, items, round_num):
        self.round_num = round_num
        return work(self, sent, items, round_num)

    monkeypatch.setattr(Actors, "hand_out", and_kill)
    monkeypatch.setattr(Actors, "work", in_round)
    return killed


@needs_ray
def test_an_actor_killed_in_the_middle_of_a_round_changes_nothing(
    make_ray_task, ray_in_place, monkeypatch, caplog
):
    caplog.set_level(logging.INFO)
    task = make_ray_task(local_epochs=200, ray_item=1)  # 0.1 s and more for each item
    expected, expected_results = train(RayEngine(task))
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    killed = kill_after_handing_out(monkeypatch, times=1)
    found, results = train(RayEngine(task))
    assert same_bytes(found.weights, expected.weights)
    for result, other in zip(results, expected_results, strict=True):
        assert (result.metrics, result.num_examples) == (other.metrics, other.num_examples)
    (told,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    client = re.fullmatch(
        rf"round 2: the Ray actor at \S+, process {killed[0]} was lost \(ActorDiedError\); trained "
        r"again by another: clients (\w+)",
        told,
    )
    assert client[1] in task.clients.client_ids


@needs_ray
def test_work_that_kills_whoever_takes_it_ends_training(make_ray_task, ray_in_place, monkeypatch):
    task = make_ray_task(ray_actors=1, local_epochs=200)
    kill_after_handing_out(monkeypatch, times=10)
    with pytest.raises(TrainingError) as error:
        train(RayEngine(task))
    assert re.fullmatch(
        r"round 2: 3 Ray actors died while they trained clients \w+, \w+\. If memory ran out, try "
        r"a smaller `ray_actors` or `ray_item`\.",
        str(error.value),
    )


@needs_ray
def test_stopped_and_gone_on_with_it_ends_in_the_same_bytes(
    make_ray_task, ray_in_place, monkeypatch, tmp_path, tiny_data_set
):
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)
    facts = {"fingerprint": "tiny"}
    task = make_ray_task(rounds=3)
    whole, *_ = train_workflow.train(task, facts, tmp_path / "whole")
    record = run_folder.RunFolder.record_round

    def stop(self, round_num, row, seconds):
        record(self, round_num, row, seconds)
        if round_num == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(train_workflow.Interrupted):
        patch.setattr(run_folder.RunFolder, "record_round", stop)
        train_workflow.train(task, facts, tmp_path / "stopped")
    run, _, result = train_workflow.resume(listing.open_run(tmp_path / "stopped"), "data")
    assert run.facts()["resumed"][-1]["after_round"] == 1 and result.last.round_num == 3
    for name in ("metrics.csv", "best.npz", "last.npz"):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes()


@needs_ray
def test_more_actors_than_fit(make_ray_task, ray_in_place):
    with pytest.raises(TrainingError) as error:
        train(RayEngine(make_ray_task(ray_actors=5)))
    assert str(error.value) == (
        "Ray has 4 CPUs and 0 GPUs: too few for 5 actors with `ray_cpus` 1 and `ray_gpus` 0 each."
    )


@needs_ray
def test_another_version_on_a_machine_is_refused(make_ray_task, ray_in_place, monkeypatch):
    versions = installed_versions()
    monkeypatch.setattr(ray_actors, "installed_versions", lambda: versions | {"jax": "0.0.1"})
    with pytest.raises(TrainingError) as error:
        train(RayEngine(make_ray_task()))
    assert re.fullmatch(
        rf"\S+, process \d+ has jax {versions['jax']}, this process 0\.0\.1: install the same on "
        r"every machine\.",
        str(error.value),
    )


@needs_ray
def test_a_second_cluster_is_refused(make_ray_task, ray_in_place):
    with pytest.raises(TrainingError) as error:
        train(RayEngine(make_ray_task(ray_address="127.0.0.1:1")))
    assert str(error.value) == (
        "this process is on the Ray cluster that it started, and cannot join 127.0.0.1:1 at the "
        "same time."
    )


def test_without_ray_it_says_what_to_install(make_ray_task, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError) as error:
        RayEngine(make_ray_task())
    assert str(error.value) == (
        "`engine` ray needs Ray, which is not installed here. Install it with pip install "
        "'fedgru[dist]'; or run `make dist`, and .venv-dist/bin/fedgru in place of fedgru."
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"engine": "ray", "ray_address": "10.0.0.1"},
            "`ray_address` is 10.0.0.1, expected HOST:PORT, such as 10.0.0.1:6379, or auto.",
        ),
    ],
)
def test_settings_that_make_no_sense(given, message):
    with pytest.raises(ConfigError) as error:
        config.load(given)
    assert str(error.value) == message


def test_processes_of_a_sweep_say_how_many_actors_each_has(tmp_path):
    given = ["--engine", "ray", "--seq-len", "4,8", "--processes", "2", "--log-dir", str(tmp_path)]
    result = CliRunner().invoke(main, ["sweep", *given])
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: --processes is 2: with --engine ray each has its own actors. Set their number with "
        "--ray-actors.\n",
    )
    assert not list(tmp_path.iterdir())


@needs_ray
def test_nobody_answers():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(TrainingError) as error:
            ray_connection.Connection(address, num_cpus=1)
    port = address.rpartition(":")[2]
    assert str(error.value) == (
        f"no Ray cluster answers at {address} (Connection refused). On its first machine: ray "
        f"start --head --port={port}"
    )


# Processes: all that belongs to one run, found from the program that fedgru starts for it.


def ray_processes(parent):
    """Processes below a pid, and theirs: {pid: command line}."""
    found, pids = {}, [parent]
    for pid in pids:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                pids += [int(child) for child in children.read_text().split()]
    for pid in pids[1:]:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def is_gone(pid, command, timeout_s=15):
    """Whether a process ends within some time; another may get its number."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            now = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            return True
        if not now or now.split()[:1] != command.split()[:1]:
            return True
        time.sleep(0.05)
    return False


def listening(pids):
    """Addresses at which processes listen for TCP, as in /proc/net: hexadecimal, without port."""
    inodes = set()
    for pid in pids:
        for fd in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(fd))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            cells = line.split()
            if cells[3] == "0A" and f"socket:[{cells[9]}]" in inodes:
                found.add(cells[1].partition(":")[0])
    return found


@needs_ray
def test_it_listens_on_loopback_alone_and_reports_to_nobody(make_ray_task, ray_in_place):
    engine = RayEngine(make_ray_task())
    with contextlib.closing(engine):
        run_round(engine, *start(engine.task), engine.task.training_clients)
        processes = ray_processes(os.getpid())
        kinds = ("gcs_server", "raylet", "ray::Trainer", "DashboardAgent", "RuntimeEnvAgent")
        assert all(any(kind in line for line in processes.values()) for kind in kinds)
        # 127.0.0.1, in IPv4 and as IPv6 has it
        loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
        assert listening([*processes, os.getpid()]) == loopback
        for pid, line in processes.items():
            if "/gcs_server " in line or "/raylet " in line:  # others write over their own
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                assert b"RAY_USAGE_STATS_ENABLED=0" in environment
                assert b"RAY_AUTH_MODE=token" in environment


@contextlib.contextmanager
def actors_at_work(log_dir):
    """A `fedgru train` whose first round takes hours; it and what it started, once at work."""
    with training_for_long(log_dir, "--engine ray --ray-item 1") as program:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            processes = ray_processes(program.pid)
            if sum("ray::Trainer.train" in line for line in processes.values()) == 2:
                break
            time.sleep(0.1)
        else:
            raise AssertionError("no actor at work")
        time.sleep(3)  # in the compiled loop, most likely
        yield program, ray_processes(program.pid)


# 20 s each on a busy machine: a new process, Ray, and JAX in three processes
@needs_ray
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL"])
def test_no_process_outlives_a_signal_in_the_middle_of_a_round(tmp_path, name):
    with actors_at_work(tmp_path) as (program, processes):
        folder = re.search(r"--log_dir=(\S+?)/session_", " ".join(processes.values()))[1]
        assert len(processes) >= 6 and Path(folder).is_dir()
        program.send_signal(getattr(signal, name))
        # a process that held stdout would keep this from ending
        stdout, stderr = program.communicate(timeout=30)
    assert all(is_gone(*process) for process in processes.items())
    assert not Path(folder).exists()
    assert stdout == "" and "Traceback" not in stderr
    if name == "SIGKILL":
        assert program.returncode == -signal.SIGKILL
    else:
        said, code = {"SIGINT": ("Ctrl-C", 130), "SIGTERM": ("SIGTERM", 143)}[name]
        assert program.returncode == code
        assert f"\nError: stopped by {said} before round 1. Resume it with: " in stderr


ROOT = Path(__file__).parents[3]
LONG = 3000  # local epochs: a node that dies in a round must be missed before the last one
SMALL = "--users 8 --hidden-dim 8 --prior backoff --rounds 4 --ray-item 1 --no-eval"
SMALL += f" --local-epochs {LONG}"


def documented(start):
    """The one command of docs/cluster.md that begins with some words, as a list."""
    lines = (ROOT / "docs/cluster.md").read_text("utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(start)]
    return line.split()


@pytest.fixture
def cluster(tmp_path):
    """Two Ray nodes of one CPU on this machine, started as docs/cluster.md says: their programs,
    and FIRST, by which to replace what the page calls so."""

    with socket.socket() as free:
        free.bind(("", 0))
        first = f"127.0.0.1:{free.getsockname()[1]}"
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "7" * 64}
    nodes = []
    with tempfile.TemporaryDirectory(prefix="fedgru-") as folder, pytest.MonkeyPatch.context() as p:
        for name, value in token.items():
            p.setenv(name, value)
        for begin in ("ray start --head", "ray start --address"):
            command = [word.replace("FIRST:6379", first) for word in documented(begin)]
            command = [sys.executable, "-m", "ray.scripts.scripts", *command[1:], "--num-cpus=1"]
            if "--head" in command:
                command += [f"--temp-dir={folder}"]
                command[command.index("--port=6379")] = f"--port={first.rpartition(':')[2]}"
            printed = tmp_path / f"node-{len(nodes)}"
            with printed.open("w") as out:
                nodes.append(subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT))
            wait_for("Ray runtime started", printed)
        try:
            yield nodes, first
        finally:
            left = {pid: line for node in nodes for pid, line in ray_processes(node.pid).items()}
            for node in reversed(nodes):
                node.terminate()
            for node in nodes:
                node.wait(60)
            assert all(is_gone(*process) for process in left.items())


def wait_for(text, path, timeout_s=90):
    deadline = time.monotonic() + timeout_s
    while text not in (found := Path(path).read_text()):
        assert time.monotonic() < deadline, found
        time.sleep(0.05)


# 40 s on a busy machine: two Ray nodes, two trainings and the start of JAX in five processes
@needs_ray
def test_two_nodes_as_documented_one_of_which_dies(cluster, ray_in_place, tmp_path):
    nodes, first = cluster
    line = documented("fedgru train --engine ray --ray-address")
    command = [word.replace("FIRST:6379", first) for word in line]
    assert command[:6] == ["fedgru", "train", "--engine", "ray", "--ray-address", first]
    printed = tmp_path / "stderr"
    with printed.open("w") as stderr:
        program = subprocess.Popen(
            [sys.executable, "-m", *command[:6], *SMALL.split(), "--json"]
            + ["--log-dir", str(tmp_path / "log")],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
        wait_for("round 1: ", printed)
        raylets = {
            pid: line for pid, line in ray_processes(nodes[1].pid).items() if "/raylet " in line
        }
        for pid in raylets:
            os.kill(pid, signal.SIGKILL)
        stdout, _ = program.communicate(timeout=120)
    said = printed.read_text()
    assert program.returncode == 0, said
    assert "Ray: 2 actors of 1 CPUs on the cluster at " + first in said
    assert said.count("\nRay actor at ") == 2
    assert "was lost (" in said and "; trained again by another: clients " in said
    found = json.loads(stdout)  # and nothing else
    settings = config.load(
        {
            **{"engine": "ray", "users": 8, "hidden_dim": 8, "prior": "backoff", "rounds": 4},
            **{"local_epochs": LONG, "ray_item": 1},
        }
    )
    here, *_ = train_workflow.train(*open_workflow.open_task(settings, tmp_path), tmp_path / "here")
    for name in ("best.npz", "last.npz", "metrics.csv"):
        assert (Path(found["run"]) / name).read_bytes() == (here.path / name).read_bytes()
