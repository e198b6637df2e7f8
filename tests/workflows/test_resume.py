"""Stopped anywhere, a run goes on to the same bytes; what stands in the way is told."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fedgru import config
from fedgru.agnostic import protection
from fedgru.algorithms.fed_avg import UpdateSum
from fedgru.cli.main import main
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError, RunError
from fedgru.core.version import __version__
from fedgru.data import datasets
from fedgru.engines.base import Engine, RoundResult
from fedgru.runs import folder as run_folder
from fedgru.runs import listing
from fedgru.storage import locks
from fedgru.training.rounds import run_round
from fedgru.workflows import open as open_workflow
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import HEEDS_CTRL_C, needs_no_tff, start

ROOT = Path(__file__).parents[2]
RESULTS = ("metrics.csv", "best.npz", "last.npz")
STRIDE = 7  # of the writes at which a run is killed, for time; 1 tries them all
SEED = 4  # with it round 2 is the best of 3, and of 9 with patience 2
CALLS = ("fsync", "replace", "rename", "link", "unlink", "rmdir", "mkdir")


class Killed(BaseException):
    """SIGKILL, as far as one process can play it: from then on nothing reaches the disk."""


class DrawnEngine(Engine):
    """An update is drawn by seed and round, and drags the prior down or up."""

    name = "drawn"
    runs_whole_rounds = True

    def run_round(self, algorithm, state, cohort):
        draw = seeding.rng(SEED, "drawn", state.round_num + 1)
        total = UpdateSum(state.weights)
        for array in (*total.dense.values(), total.rows):
            array += draw.normal(0, 0.05, array.shape).astype(np.float32)
        total.num_examples = 1
        new = algorithm.apply(state, total)
        metrics = {"loss": float(draw.uniform(1, 3)), "acc@1": 0.5}
        return RoundResult(new, metrics, len(cohort), 10)

    def hidden_states(self, weights, first_positions, end_positions, wanted):
        shift = weights["bias"].sum()
        return np.full((len(wanted), self.task.spec.hidden_dim), shift, np.float32)


@pytest.fixture
def train(make_task, tiny_data_set, tmp_path, monkeypatch):
    """Train three rounds in a new log folder under a server Adam; its moments must come back."""
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)
    monkeypatch.setattr(train_workflow, "make_engine", lambda task, *_, **__: DrawnEngine(task))

    def train(log_dir="log", **overrides):
        given = {"rounds": 3, "server_optimizer": "adam", "server_lr": 0.03} | overrides
        task = make_task(**given)
        run, _, result = train_workflow.train(task, {"fingerprint": "tiny"}, tmp_path / log_dir)
        return run, result

    return train


def results(run):
    return {name: (run.path / name).read_bytes() for name in RESULTS}


def steps(run, split):
    events = EventAccumulator(str(run.path / split))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def kill_at(patch, number):
    """From the given call on that reaches the disk, none does; return the count, a list of one."""
    count = [0]

    def counting(real):
        def call(*args, **given):
            count[0] += 1
            if count[0] >= number:
                raise Killed
            return real(*args, **given)

        return call

    for name in CALLS:
        patch.setattr(os, name, counting(getattr(os, name)))
    return count


def test_killed_at_any_write_it_ends_in_the_same_bytes(train, tmp_path, monkeypatch):
    whole, result = train("whole")
    assert result.best.round_num == 2  # neither the first nor the last
    expected, scalars = results(whole), {split: steps(whole, split) for split in ("train", "val")}
    resumed_after, number = set(), 1
    while True:
        log_dir = f"log-{number}"
        with monkeypatch.context() as patch:
            kill_at(patch, number)
            try:
                train(log_dir)
                break  # it was done before the kill
            except Killed:
                pass
        try:
            run = listing.open_run(tmp_path / log_dir)
        except RunError:
            assert number < 10  # killed before there was a run folder, or in making it
        else:
            if run.status() == "done":
                assert run.facts()["why"] == "all rounds done"
            else:
                assert run.status() == "interrupted"
                run, _, again = train_workflow.resume(run, "data")
                resumed_after.add(run.facts()["resumed"][-1]["after_round"])
                assert again.best_value == result.best_value
            assert results(run) == expected, number
            for split, found in scalars.items():
                assert steps(run, split) == found, number
            names = {path.name for path in run.path.iterdir()} - {"checkpoints", locks.FILE}
            assert names == {path.name for path in whole.path.iterdir()}, number
        shutil.rmtree(tmp_path / log_dir, ignore_errors=True)
        number += STRIDE
    assert resumed_after == {-1, 0, 1, 2, 3}
    assert number > 60


def test_stopped_twice_and_then_early(train, tmp_path, monkeypatch):
    whole, result = train("whole", rounds=9, patience=2)
    assert result.why.endswith("has not improved in 2 rounds")
    last = result.last.round_num

    real = run_folder.RunFolder.record_round
    for number in (1, last):  # in the last the decision to stop is made again
        with monkeypatch.context() as patch:

            def record(self, round_num, row, seconds, number=number):
                real(self, round_num, row, seconds)
                if round_num == number:
                    raise KeyboardInterrupt

            patch.setattr(run_folder.RunFolder, "record_round", record)
            with pytest.raises(train_workflow.Interrupted):
                if number == 1:
                    train(rounds=9, patience=2)
                else:
                    train_workflow.resume(listing.open_run(tmp_path / "log"), "data")
    run, _, again = train_workflow.resume(listing.open_run(tmp_path / "log"), "data")
    assert results(run) == results(whole)
    assert (again.why, again.best.round_num) == (result.why, result.best.round_num)
    assert [entry["after_round"] for entry in run.facts()["resumed"]] == [0, last - 1]
    assert "error" not in run.facts() and run.status() == "done"
    log = (run.path / "run.log").read_text()
    assert f"resumed after round {last - 1} of 9" in log


@pytest.fixture
def stopped(train, tmp_path, monkeypatch):
    """A run that was stopped in round 2."""
    real = DrawnEngine.run_round

    def stop(self, algorithm, state, cohort):
        if state.round_num == 1:
            raise KeyboardInterrupt
        return real(self, algorithm, state, cohort)

    with monkeypatch.context() as patch:
        patch.setattr(DrawnEngine, "run_round", stop)
        with pytest.raises(train_workflow.Interrupted):
            train()
    return listing.open_run(tmp_path / "log")


def content(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def refusal(run, kind=RunError):
    """The message with which going on is refused; the run is left as it was."""
    before = content(run.path)
    with pytest.raises(kind) as error:
        train_workflow.resume(run, "data")
    assert content(run.path) == before
    return str(error.value)


def test_another_version_of_fedgru(stopped, caplog):
    stopped.write_facts({"versions": {"fedgru": "0.0.9"}})
    assert refusal(stopped) == (
        f"{stopped.path} was begun by fedgru 0.0.9, this is {__version__}: later rounds would be "
        "computed differently. Resume it with fedgru 0.0.9. Train anew with: fedgru train --config "
        f"{stopped.path}/config.toml"
    )
    reopen_workflow.reopen_task(stopped, "data")  # it can be scored
    assert caplog.messages[-2] == (
        f"{stopped.path} was made by fedgru 0.0.9, this is {__version__}: numbers can differ"
    )


@pytest.mark.parametrize("last", ["0", "17"])
def test_the_same_version_but_for_the_last_number(stopped, last):
    stopped.write_facts({"versions": {"fedgru": f"{__version__.rpartition('.')[0]}.{last}"}})
    assert train_workflow.resume(stopped, "data")[2].last.round_num == 3


def test_another_jax_is_told(stopped, caplog):
    versions = stopped.facts()["versions"]
    stopped.write_facts({"versions": versions | {"jax": "0.0.1", "pandas": "0.0.1"}})
    train_workflow.resume(stopped, "data")
    told = [message for message in caplog.messages if "0.0.1" in message]
    assert told == [
        f"{stopped.path} began with jax 0.0.1, continues with {versions['jax']}: later rounds can "
        "differ in the last digits"
    ]


def test_other_code_for_local_steps_is_told(stopped, caplog):
    now = stopped.facts()["computes_with"]
    train_workflow.resume(stopped, "data")
    assert not [message for message in caplog.messages if "continues with" in message]
    stopped.write_facts({"computes_with": "jax on cpu, local steps in C", "status": "interrupted"})
    train_workflow.resume(stopped, "data")
    (told,) = [message for message in caplog.messages if "continues with" in message]
    assert told == (
        f"{stopped.path} began with jax on cpu, local steps in C, continues with {now}: later "
        "rounds can differ in the last digits"
    )


def test_other_settings_and_other_data(stopped, monkeypatch, tiny_data_set):
    toml = stopped.path / "config.toml"
    whole = toml.read_text()
    toml.write_text(whole.replace("rounds = 3", "rounds = 4"))
    assert refusal(stopped) == (
        f"{toml} has changed since {stopped.path} was begun. Restore it, or train a new run with: "
        f"fedgru train --config {toml}"
    )
    toml.write_text(whole)
    stopped.write_facts({"fingerprint": "0" * 64})
    assert refusal(stopped) == (
        f"{stopped.path} was trained on another version of data set tiny (fingerprint "
        "000000000000, now tiny). Restore that version, or train again."
    )


def test_a_vanished_data_set(stopped, monkeypatch, tmp_path):
    monkeypatch.undo()
    toml = stopped.path / "config.toml"
    text = toml.read_text().replace('data = "embedded"', 'data = "gone"')
    toml.write_text(text)
    sha256 = run_folder.hashlib.sha256(text.encode()).hexdigest()
    stopped.write_facts({"config_sha256": sha256})
    with pytest.raises(DataError) as error:
        train_workflow.resume(stopped, tmp_path / "data")
    assert str(error.value).startswith(f"There is no data set 'gone' in {tmp_path}/data, only")


@pytest.mark.parametrize("name", ["../../x", "/etc", "a/../../b"])
def test_a_config_whose_data_set_leaves_its_folder(name, tmp_path):
    with pytest.raises(DataError):
        open_workflow.open_task(config.load({"data": name}), tmp_path)


@pytest.mark.parametrize("name", ["../../x", "..", "a/b", "/etc/x", ""])
def test_a_run_named_so_that_it_leaves_its_folder(name):
    with pytest.raises(ConfigError, match="^`name` is "):
        config.load({"name": name})


def test_a_path_is_no_name_inside_the_log_folder(stopped, tmp_path, monkeypatch):
    outside = tmp_path / "outside"
    shutil.copytree(stopped.path, outside)
    with pytest.raises(RunError) as error:
        listing.open_run(tmp_path / "log", "../outside")
    assert str(error.value) == "no run ../outside: it is not a folder with a run.json."
    monkeypatch.chdir(tmp_path / "log")  # where it is the path of a run
    assert listing.open_run("elsewhere", "../outside").path == Path("../outside")


@pytest.mark.parametrize(
    "kernel", [[1.0], {"trust": 1.0, "x": 1.0}, {"trust": "1"}, {"trust": float("inf")}, "x"]
)
def test_a_kernel_that_is_none(stopped, kernel):
    (stopped.path / "run.json").write_text(json.dumps(stopped.facts() | {"kernel": kernel}))
    assert refusal(stopped) == f"{stopped.path}/run.json is damaged: its kernel is not one."


def test_weights_of_another_model(stopped, make_task):
    other = make_task(hidden_dim=9)
    rows = other.spec.num_rows
    weights = protection.init_weights(make_task())
    stopped.save_weights("best", weights, 1)
    with pytest.raises(RunError) as error:
        score_workflow.evaluate_run(stopped, other)
    assert str(error.value) == (
        f"{stopped.path}/best.npz is damaged: its rows is float32 [{rows}, 24], expected "
        f"float32 [{rows}, 27]. Train again with: fedgru train --config {stopped.path}/config.toml"
    )


def test_both_checkpoints_damaged(stopped):
    for file in (stopped.path / "checkpoints").glob("*.json"):
        file.write_text("{}")
    before = content(stopped.path)
    with pytest.raises(RunError, match="^all checkpoints in .* are damaged"):
        train_workflow.resume(stopped, "data")
    after = content(stopped.path)
    for name in ("run.log", "run.json"):
        before.pop(stopped.path / name), after.pop(stopped.path / name)
    assert before == after


def test_a_full_disk(train, tmp_path, monkeypatch):
    whole, _ = train("whole")
    with monkeypatch.context() as patch:
        real, full = os.fsync, []

        def disk_full(descriptor):
            if full or "round-2.npz" in os.readlink(f"/proc/self/fd/{descriptor}"):
                full.append(descriptor)
                raise OSError(28, "No space left on device")
            real(descriptor)

        patch.setattr(os, "fsync", disk_full)
        with pytest.raises(RunError) as error:
            train()
    run = listing.open_run(tmp_path / "log")
    file, _, rest = str(error.value).removeprefix("cannot write to ").partition(": ")
    assert file in (  # the next round may be at its own files before it looks
        f"{run.path}/checkpoints/round-2.npz",
        *(f"{run.path}/{split}" for split in ("train", "val")),
    )
    assert rest == (
        "No space left on device. Training stopped after round 1 of 3. When that is fixed, resume "
        f"it with: fedgru train --resume {run.path}"
    )
    assert run.status() == "interrupted"  # there was no room to write that it failed
    train_workflow.resume(run, "data")
    assert results(run) == results(whole)


def test_a_folder_that_has_become_read_only(stopped, monkeypatch):
    # root may write anywhere, so the refusal is played
    really = os.open

    def read_only(path, flags, *others, **named):
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(30, "Read-only file system")
        return really(path, flags, *others, **named)

    monkeypatch.setattr(locks.os, "open", read_only)
    assert refusal(stopped) == f"cannot write to {stopped.path}: Read-only file system."


def test_two_writers(stopped):
    with stopped:
        for act in (
            lambda: train_workflow.resume(run_folder.RunFolder(stopped.path), "data"),
            lambda: run_folder.RunFolder(stopped.path).__enter__(),  # as eval and audit do
        ):
            with pytest.raises(RunError) as error:
                act()
            assert str(error.value) == (
                f"{stopped.path} is being written by process {os.getpid()}. Wait until it has "
                f"ended, or end it with: kill {os.getpid()}"
            )
    assert not (stopped.path / locks.FILE).exists()


def test_a_clock_that_was_set_back(stopped, train, tmp_path, caplog):
    future = "2999-01-01T00:00:00.000000+00:00"
    stopped.write_facts({"started": future})
    with pytest.raises(RunError) as error:
        listing.open_run(tmp_path / "log")
    assert str(error.value) == (
        f"{stopped.path} was started at {future}, which is in the future. If the clock was set "
        "back, later runs look older than they are: name the run."
    )
    run, _ = train(name="later")
    assert caplog.messages[0] == (
        f"{stopped.path} was started at {future}, which is in the future: was the "
        "clock set back? The new run will look older."
    )
    assert listing.open_run(tmp_path / "log", run.path.name).status() == "done"
    train_workflow.resume(stopped, "data")  # by name all goes as ever
    assert stopped.status() == "done"


# What follows starts processes, of a few seconds each.

SMALL = ["--data", "hamlet", "--hidden-dim", "8", "--batch-size", "2", "--seq-len", "5"]
SMALL += ["--threads", "1", "--prior", "backoff"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 40)
    return tmp_path


def invoke(*words, code=0):
    result = CliRunner().invoke(main, [str(word) for word in words], prog_name="fedgru")
    assert result.exit_code == code, result.output
    return result


def stop_in_training(name, words=()):
    """Send a signal to a training that has done some rounds; return its exit code and stderr."""
    with subprocess.Popen(
        [sys.executable, "-c", HEEDS_CTRL_C, "train", *SMALL, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        try:
            seen = []
            for line in program.stderr:
                seen.append(line)
                if line.startswith("round 3:"):
                    program.send_signal(name)
            assert program.stdout.read() == ""
            return program.wait(30), "".join(seen)
        finally:
            program.kill()


@pytest.mark.parametrize(
    ("name", "said", "code"),
    [
        ("SIGINT", "Ctrl-C", 130),
        pytest.param("SIGTERM", "SIGTERM", 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_and_the_way_on(here, name, said, code):
    rounds = ["--rounds", "400", "--patience", "0"]
    found, stderr = stop_in_training(getattr(signal, name), rounds)
    run = listing.open_run("log")
    last = stderr.splitlines()[-1]
    at = int(re.search(r"after round (\d+) of 400", last)[1])
    assert found == code and "Traceback" not in stderr
    assert at >= 3
    assert last == (
        f"Error: stopped by {said} after round {at} of 400. Resume it with: fedgru train --resume "
        f"{run.path}"
    )
    assert run.status() == "interrupted"
    assert (run.path / f"checkpoints/round-{at}.json").exists()
    result = invoke("eval", run.path.name)
    assert result.stderr.splitlines()[0] == (
        f"{run.path} is interrupted: its best round so far is scored. Resume it with: fedgru "
        f"train --resume {run.path}"
    )


def test_resume_as_typed(here, monkeypatch):
    invoke("train", *SMALL, "--rounds", 4, "--name", "whole")
    real = run_folder.RunFolder.record_round

    def record(self, round_num, row, seconds):
        real(self, round_num, row, seconds)
        if round_num == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run_folder.RunFolder, "record_round", record)
        result = invoke("train", *SMALL, "--rounds", 4, "--name", "cut", code=130)
    (whole,), (cut,) = here.glob("log/*-whole"), here.glob("log/*-cut")
    name = cut.relative_to(here)
    assert result.stderr.splitlines()[-1] == (
        f"Error: stopped by Ctrl-C after round 2 of 4. Resume it with: fedgru train --resume {name}"
    )
    for given, option in (
        (["--rounds", 9], "--rounds"),
        (["--config", name / "config.toml"], "--config"),
        (["--preset", "notebook"], "--preset"),
        (["--threads", 1], "--threads"),
        (["--no-eval"], "--eval/--no-eval"),
    ):
        result = invoke("train", "--resume", name, *given, code=2)
        assert result.stderr.endswith(
            f"Error: {option} has no effect with --resume: {name} keeps the settings it was begun "
            "with, so that its result equals that of an unstopped run. For other settings train a "
            "new run.\n"
        )
    result = invoke("train", "--resume", cut.name)
    assert "resumed after round 2 of 4" in result.stderr
    assert result.stdout.startswith("Test of log/")
    for file in (*RESULTS, "clients.csv", "test.json"):
        content = [(run / file).read_bytes() for run in (whole, cut)]
        assert content[0].replace(whole.name.encode(), cut.name.encode()) == content[1], file
    # killed before, or in, the evaluation at the end: that alone is done
    (cut / "test.json").unlink()
    before = (cut / "run.json").read_bytes()
    assert invoke("train", "--resume", cut.name).stdout == result.stdout
    # and then there is nothing left to do
    before = {path: path.stat().st_mtime_ns for path in cut.rglob("*")}
    result = invoke("train", "--resume", cut.name)
    facts = run_folder.RunFolder(cut).facts()
    assert result.stdout == (
        f"{name} is done: all rounds done, best is round {facts['best_round']} of 4. Nothing to "
        "do.\n"
    )
    assert {path: path.stat().st_mtime_ns for path in cut.rglob("*")} == before
    assert sorted(path.name for path in cut.iterdir()) == sorted(p.name for p in whole.iterdir())


def test_a_run_without_evaluation_has_none_after_resuming(here):
    invoke("train", *SMALL, "--rounds", 1, "--no-eval")
    assert invoke("train", "--resume", next(here.glob("log/*-run"))).stdout.endswith("to do.\n")
    assert not list(here.glob("log/*/test.json"))


def test_the_data_folder_is_named_where_it_is_needed(here, monkeypatch):
    shutil.move("data", "elsewhere")
    monkeypatch.setattr(run_folder.RunFolder, "record_round", interrupt)
    result = invoke("train", *SMALL, "--data-dir", "elsewhere", code=130)
    assert result.stderr.endswith("-run --data-dir elsewhere\n")


def interrupt(*_):
    raise KeyboardInterrupt


def test_ctrl_c_elsewhere(here, monkeypatch):
    monkeypatch.setattr(listing, "open_run", interrupt)
    assert invoke("eval", code=130).stderr == "Error: stopped by Ctrl-C.\n"


@pytest.mark.slow
def test_killed_three_times(tmp_path):
    # the benchmark itself, shortened; some 30 s, most of it starting processes
    result = subprocess.run(
        [sys.executable, ROOT / "benchmarks/kill_resume.py", "--kills", "3", "--rounds", "12"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-1] == (
        "    3 kills; every file equal to the byte, every round once in TensorBoard"
    )


@needs_no_tff  # whose Keras 2 keeps where its draws stand to itself
@pytest.mark.parametrize("name", ["jax", "reference"])
def test_a_rounds_dropout_does_not_depend_on_the_rounds_before(make_task, monkeypatch, name):
    monkeypatch.undo()
    task = make_task(engine=name, dropout=0.5, threads=None if name == "reference" else 1, users=2)
    algorithm, state = start(task)
    engine = train_workflow.make_engine(task)
    middle = run_round(engine, algorithm, state, task.training_clients).state
    at_once = run_round(engine, algorithm, middle, task.training_clients)
    later = run_round(train_workflow.make_engine(task), algorithm, middle, task.training_clients)
    assert at_once.metrics == later.metrics
    for weight, array in at_once.state.weights.items():
        assert np.array_equal(array, later.state.weights[weight]), weight


@pytest.mark.slow
def test_killed_with_clients_in_flight_it_ends_in_the_same_bytes(here):
    words = ["--rounds", "300", "--patience", "0", "--buffer-size", "2", "--concurrency", "5"]
    words += ["--device-spread", "1.5", "--availability", "clock", "--step-s", "600"]
    invoke("train", *SMALL, *words, "--name", "whole", "--no-eval")
    found, _ = stop_in_training(signal.SIGKILL, [*words, "--name", "cut", "--no-eval"])
    assert found == -signal.SIGKILL
    (whole,), (cut,) = here.glob("log/*-whole"), here.glob("log/*-cut")
    kept = json.loads(max(cut.glob("checkpoints/*.json"), key=os.path.getmtime).read_text())
    in_flight = kept["checkpoint"]["simulated"]["in_flight"]
    assert len({version for _, version, *_ in in_flight}) > 1
    result = invoke("train", "--resume", cut.name)
    assert re.search(r"resumed after round \d+ of 300", result.stderr)
    for file in (*RESULTS, "faults.csv"):
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file
    assert not (cut / "checkpoints").exists()
