"""fedgru/sweep/sweep.py and what it is made of: who does which trial, and what is kept of it."""

import csv
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from fedgru import config
from fedgru.console.sweeps import describe_records
from fedgru.core.errors import ConfigError, Interrupted, RunError, TrainingError
from fedgru.data import datasets
from fedgru.runs import folder as run_folder
from fedgru.runs import listing
from fedgru.sweep import plan as sweep_plan
from fedgru.sweep import results as sweep_results
from fedgru.sweep import sweep as sweeps
from fedgru.sweep.search_space import Range
from fedgru.sweep.trials import describe_scored
from fedgru.workflows import open as open_workflow
from tests.conftest import make_check_ins
from tests.scripted import follow

SMALL = {"hidden_dim": 8, "batch_size": 2, "seq_len": 5, "prior": "backoff", "threads": 1}


@pytest.fixture
def script(tiny_data_set, monkeypatch):
    """Let script(loss) say what validation gives, see `scripted.follow`."""
    return lambda loss: follow(monkeypatch, tiny_data_set, loss)


@pytest.fixture
def sweep(tmp_path):
    """Do a sweep over client_lr, with other things as asked; returns the Sweep."""

    def do(axes, num=None, name="try", **asked):
        asked = {"seeds": 1, "trials": None, "prune": None} | asked
        overrides = SMALL | {"rounds": num or 2}
        plan = sweep_plan.make_plan(axes, overrides, name=name, **asked)
        search = sweeps.Sweep.create(tmp_path / "log", "data", plan)
        search.work("data", lambda record: None, on_wait=lambda _: None)
        return search

    return do


def test_the_mean_over_seeds_of_the_best_round_counts(script, sweep):
    # best rounds of the seeds: lr 0.1: 2.0, 1.0, 3.0; mean 2.0. lr 0.2: 1.5 each. By the best
    # seed, or by the last round, 0.1 would win
    losses = {0.1: ([2.0, 2.0], [1.0, 1.0], [3.0, 3.0]), 0.2: ([1.5, 9.0],) * 3}
    script(lambda s, r: 9.5 if r == 0 else losses[s.client.client_lr][s.loop.seed][r - 1])
    search = sweep({"client_lr": (0.1, 0.2)}, seeds=3)
    first, second = search.records()
    assert (first["value"], first["lowest"], first["highest"]) == (2.0, 1.0, 3.0)
    assert (second["value"], second["lowest"], second["highest"]) == (1.5, 1.5, 1.5)
    assert [run["best_round"] for run in second["runs"]] == [1, 1, 1]
    assert [run["seed"] for run in first["runs"]] == [0, 1, 2]
    assert search.best()["trial"] == 2
    run = run_folder.RunFolder(search.path / first["runs"][1]["run"])
    assert (run.settings().loop.seed, run.settings().client.client_lr) == (1, 0.1)
    assert run.facts()["sweep"] == {"name": "try", "trial": 1}
    assert (
        listing.open_run(search.path).path.name == second["runs"][2]["run"]
    )  # a log folder itself


def test_higher_accuracy_is_better(script, sweep, monkeypatch):
    script(lambda s, r: 9.5 if r == 0 else {0.1: 4.0, 0.2: 2.0}[s.client.client_lr])
    monkeypatch.setitem(SMALL, "stop_metric", "val/acc@1/micro")
    search = sweep({"client_lr": (0.1, 0.2)})
    assert [record["value"] for record in search.records()] == [0.25, 0.5]
    assert search.best()["trial"] == 2
    ranked = sweep_results.ranked(search.plan, search.records())
    assert [record["trial"] for record in ranked] == [2, 1]


def scripted_failure(settings, round_num):
    if settings.client.client_lr == 0.2:
        raise TrainingError("training diverged: the train loss of round 1 is 951.7 nats.")
    return 9.0 - round_num


def test_a_failed_trial_is_kept_and_ends_nothing(script, sweep):
    script(scripted_failure)
    search = sweep({"client_lr": (0.1, 0.2, 0.3)})
    assert [record["status"] for record in search.records()] == ["done", "failed", "done"]
    assert search.best()["trial"] == 1
    with open(search.path / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    why = rows[1]["why"]
    folder = next(search.path.glob("*-try-2-seed0"))
    assert why == (
        f"training diverged: the train loss of round 1 is 951.7 nats. Details: {folder / 'run.log'}"
    )
    assert [row["client_lr"] for row in rows] == ["0.1", "0.2", "0.3"]
    assert [row["val/loss/micro"] for row in rows] == ["7.0", "", "7.0"]
    text = describe_records(search.plan, sweep_results.ranked(search.plan, search.records()))
    lines = [line for line in text.splitlines() if "trial" in line or "done," in line]
    assert lines[1:] == ["2 done, 1 failed", f"trial 2 failed: {why}"]


def test_all_failed(script, sweep):
    script(lambda s, r: (_ for _ in ()).throw(TrainingError("too bad.")))
    search = sweep({"client_lr": (0.1, 0.2)})
    with pytest.raises(TrainingError) as error:
        search.best()
    first = next(search.path.glob("*-try-1-seed0"))
    assert str(error.value) == (
        f"all 2 trials of {search.path} failed. The first: too bad. Details: {first / 'run.log'}"
    )


def test_a_trial_behind_the_median_is_pruned(script, sweep):
    # five trials of 7, 6, 5, 4 ... then one that stands at 8.5: in round 3 behind their median
    def loss(settings, round_num):
        return 8.5 if settings.client.client_lr == 0.6 else 8.0 - round_num

    trained = script(loss)
    axes = {"client_lr": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)}
    search = sweep(axes, num=5, prune=True, seeds=2)
    last = search.records()[-1]
    assert (last["status"], last["value"]) == ("pruned", 8.5)
    assert last["why"] == "pruned in round 3: worse than the median of the trials before it"
    assert [(run["seed"], run["rounds"]) for run in last["runs"]] == [(0, 3)]
    assert len(trained) == 11  # 5 * 2, and one seed of the sixth
    run = run_folder.RunFolder(search.path / last["runs"][0]["run"])
    assert (run.facts()["status"], run.facts()["why"]) == ("done", last["why"])
    assert (run.path / "last.npz").exists()
    plain = sweep(axes, num=5, name="plain")  # a grid is not pruned unless asked
    assert [record["status"] for record in plain.records()] == ["done"] * 6
    assert plain.records()[-1]["runs"][0]["rounds"] == 5


def test_what_prunes_and_what_does_not(script):
    def plan(axes, **asked):
        asked = {"name": None, "seeds": 1, "trials": None, "prune": None} | asked
        return sweep_plan.make_plan(axes, SMALL, **asked)

    grid, drawn = plan({"seq_len": (4, 8)}), plan({"client_lr": Range(1e-3, 1e-2)})
    assert (grid.draws, grid.prunes, grid.num_trials, grid.name) == (False, False, 2, "seq-len")
    assert (drawn.draws, drawn.prunes, drawn.num_trials) == (True, True, 20)
    assert not plan({"client_lr": Range(1e-3, 1e-2)}, prune=False).prunes
    assert plan({"seq_len": (4, 8)}, prune=True).prunes
    chosen = plan({"seq_len": (4, 8), "cell": ("gru", "lstm")}, trials=3)
    assert (chosen.draws, chosen.num_trials, chosen.name) == (True, 3, "seq-len_cell")


def test_a_point_drawn_again_is_not_trained_again(script, sweep):
    trained = script(lambda s, r: 9.0 - r - s.client.client_lr)
    search = sweep({"client_lr": (0.1, 0.2)}, trials=6)
    records = search.records()
    assert len(records) == 6 and len(trained) == 2
    values = {0.1: 9.0 - 2 - 0.1, 0.2: 9.0 - 2 - 0.2}
    assert [r["value"] for r in records] == [values[r["params"]["client_lr"]] for r in records]
    firsts = {r["params"]["client_lr"]: r["trial"] for r in reversed(records)}
    for r in records:
        first = firsts[r["params"]["client_lr"]]
        assert r["same_as"] == (None if r["trial"] == first else first)


def test_more_trials_later(script, sweep, tmp_path):
    trained = script(lambda s, r: 9.0 - r - s.client.client_lr)
    axes = {"client_lr": Range(1e-3, 1e-1)}
    whole = sweep(axes, name="whole", trials=13)  # three more than are drawn at random
    parts = sweep(axes, name="parts", trials=11)
    assert len(parts.records()) == 11
    parts = sweeps.Sweep.reopen(tmp_path / "log", "parts", 13)
    parts.work("data", lambda record: None)
    points = [[r["params"] for r in search.records()] for search in (whole, parts)]
    assert points[0] == points[1] and len(points[0]) == 13
    assert len(trained) == 26
    with pytest.raises(ConfigError) as error:
        sweeps.Sweep.reopen(tmp_path / "log", "parts", 12)
    assert str(error.value) == (
        f"`trials` is 12, but {parts.path} has 13 already: give more, or leave it out."
    )


def test_the_same_command_goes_on_and_another_is_refused(script, sweep, monkeypatch):
    trained = script(lambda s, r: 9.0 - r)
    search = sweep({"seq_len": (4, 8)})
    assert len(trained) == 2
    table = (search.path / "sweep.csv").read_text()
    (search.path / "sweep.csv").unlink()  # killed when the last trial was done
    sweep({"seq_len": (4, 8)})
    assert len(trained) == 2  # all was done
    assert (search.path / "sweep.csv").read_text() == table
    monkeypatch.setitem(SMALL, "dropout", 0.1)
    with pytest.raises(RunError) as error:
        sweep({"seq_len": (4, 8, 16)}, seeds=2)
    assert str(error.value) == (
        f"{search.path} is a sweep that differs from this one in what it tries, `seeds`, "
        "`dropout`. Give this one another `name`, or resume that one: fedgru sweep --resume "
        f"try --log-dir {search.path.parent.parent}"
    )
    assert len(trained) == 2


def test_ctrl_c_says_how_to_go_on(script, sweep):
    def stops(settings, round_num):
        if settings.client.client_lr == 0.2 and round_num == 1:
            raise KeyboardInterrupt
        return 9.0 - round_num

    trained = script(stops)
    with pytest.raises(Interrupted) as error:
        sweep({"client_lr": (0.1, 0.2)})
    assert str(error.value).startswith(
        "stopped by Ctrl-C. 1 of 2 trials are finished; resume with: fedgru sweep --resume try"
    )
    assert [lr for lr, _ in trained] == [0.1, 0.2]
    trained = script(lambda s, r: 9.0 - r)
    search = sweep({"client_lr": (0.1, 0.2)})
    assert [lr for lr, _ in trained] == [0.2]
    assert [record["value"] for record in search.records()] == [7.0, 7.0]


def test_two_sweepers_share_the_trials(script, tmp_path):
    # the second starts while the first is in its first trial, does all the others, and leaves
    plan = sweep_plan.make_plan(
        {"client_lr": (0.1, 0.2, 0.3)},
        SMALL | {"rounds": 1},
        name="shared",
        seeds=1,
        trials=None,
        prune=None,
    )
    here, there = [], []

    def loss(settings, round_num):
        if settings.client.client_lr == 0.1 and round_num == 1:
            second = sweeps.Sweep.create(tmp_path, "data", plan)
            second.work("data", lambda record: there.append(record["trial"]))
        return 9.0 - round_num

    trained = script(loss)
    first = sweeps.Sweep.create(tmp_path, "data", plan)
    first.work("data", lambda record: here.append(record["trial"]))
    assert (here, there) == ([1], [2, 3])
    assert sorted(lr for lr, _ in trained) == [0.1, 0.2, 0.3]
    assert [record["status"] for record in first.records()] == ["done"] * 3


def test_finished_seeds_of_a_killed_trial_count(script, sweep, tmp_path):
    trained = script(lambda s, r: 9.0 - r - s.loop.seed)
    search = sweep({"client_lr": (0.1, 0.2)}, seeds=2)
    values = [record["value"] for record in search.records()]
    # as if the process had been killed in the second seed of the second trial
    folder = search.path
    killed = next(folder.glob("*-try-2-seed1"))
    facts = json.loads((killed / "run.json").read_text())
    (killed / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    with sqlite3.connect(folder / "trials.db") as database:
        database.execute("update trials set state = 'RUNNING' where number = 1")
        database.execute("delete from trial_values where trial_id = 2")
        database.execute("delete from trial_user_attributes where trial_id = 2")
    again = sweeps.Sweep.reopen(tmp_path / "log", "try")
    assert [record["status"] for record in again.records()] == ["done", "running"]
    del trained[:]
    again.work("data", lambda record: None)
    assert [loop.seed for _, loop in trained] == [1]
    assert [record["value"] for record in again.records()] == values
    facts = json.loads((killed / "run.json").read_text())
    assert (facts["status"], facts["error"]) == (
        "failed",
        "the process died before the run was done; the sweep trains it again",
    )


def test_every_point_is_scored_on_the_same_check_ins(tmp_path):
    found = {}
    settings = {"hidden_dim": 8, "batch_size": 2}
    for seq_len in (4, 8, 16, 32):
        for layout in ("streams", "chunks"):
            task, facts = open_workflow.open_task(
                config.load(settings | {"seq_len": seq_len, "layout": layout}), tmp_path
            )
            found[seq_len, layout] = task, describe_scored(task, facts)
    first, scored = found[4, "streams"]
    for task, also_scored in found.values():
        assert also_scored == scored
        assert task.clients.client_ids == first.clients.client_ids
        for split in ("val", "test"):
            rows = [t.clients.rows[t.clients.target_positions(split)] for t in (task, first)]
            assert len(rows[0]) and (rows[0] == rows[1]).all()
    # where the notebook's chunks train on fewer people the longer they are
    trained = [len(found[n, "chunks"][0].training_clients) for n in (4, 32)]
    assert trained[0] > trained[1] or trained[0] == trained[1] == len(first.clients)
    other, facts = open_workflow.open_task(config.load(settings | {"users": 7}), tmp_path)
    assert describe_scored(other, facts)["digest"] != scored["digest"]


def test_data_that_changed_meanwhile(script, sweep, monkeypatch, tmp_path):
    script(lambda s, r: 9.0 - r)
    search = sweep({"client_lr": Range(0.1, 0.2)}, trials=1)
    check_ins = make_check_ins(["ann"] * 20, ["Home", "Work"] * 10)
    other = datasets.DataSet("tiny", check_ins, {"fingerprint": "b" * 64})
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: other)
    again = sweeps.Sweep.reopen(tmp_path / "log", "try", 2)
    with pytest.raises(RunError) as error:
        again.work("data", lambda record: None)
    assert str(error.value) == (
        f"trial 2 of {search.path} would not be scored on the check-ins that the sweep was begun "
        "with, 40 val and 51 test targets of 6 clients of data set tiny (fingerprint tiny): now "
        "there are 4 val and 4 test targets of 1 clients of data set tiny (fingerprint "
        "bbbbbbbbbbbb). Restore that version of the data, or give a new sweep another `name`."
    )


def test_tensorboard_reads_the_hparams(script, sweep):
    # TensorBoard's own reader and the HParams plugin's own answer to its tab
    from tensorboard.backend.event_processing import data_provider, plugin_event_multiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins import base_plugin
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups

    script(lambda s, r: 9.0 - r - s.loop.seed / 2)
    search = sweep({"client_lr": (0.1, 0.2), "mean": ("clients", "owners")}, seeds=2)
    multiplexer = plugin_event_multiplexer.EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(search.path.parent.parent))
    multiplexer.Reload()
    provider = data_provider.MultiplexerDataProvider(multiplexer, str(search.path))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    experiment_ = context.experiment_from_metadata(request, "", True, metadata, None)
    assert {info.name for info in experiment_.hparam_infos} == {"client_lr", "mean"}
    metric = next(m.name for m in experiment_.metric_infos)
    assert [m.name.tag for m in experiment_.metric_infos] == ["best/val/loss/micro"]
    asked = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        aggregation_type=api_pb2.AGGREGATION_AVG,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        col_params=[
            api_pb2.ColParams(hparam="client_lr", include_in_result=True),
            api_pb2.ColParams(hparam="mean", include_in_result=True),
            api_pb2.ColParams(metric=metric),
        ],
    )
    groups = list_session_groups.Handler(request, context, "", asked).run().session_groups
    found = {group.name: group for group in groups}
    assert sorted(found) == [f"try, trial {number}" for number in (1, 2, 3, 4)]
    last = found["try, trial 4"]
    assert last.hparams["client_lr"].number_value == 0.2
    assert last.hparams["mean"].string_value == "owners"
    # seeds 0 and 1 reach 7.0 and 6.5
    assert [session.metric_values[0].value for session in last.sessions] == [7.0, 6.5]
    assert last.metric_values[0].value == 6.75


# The one test here that takes long (about half a minute): a real program that really trains is
# killed and started again, which no shorter way shows. Points share shapes, so JAX compiles once.
@pytest.mark.slow
def test_a_sweep_killed_twice_ends_as_one_that_was_not(tmp_path):
    words = [sys.executable, "-m", "fedgru"]
    city = ["data", "synth", "--name", "hamlet", "--users", "6", "--checkins-per-user", "40"]
    subprocess.run([*words, *city], cwd=tmp_path, check=True, capture_output=True)
    words += ["sweep", "--data", "hamlet", "--hidden-dim", "8", "--batch-size", "2", "--threads"]
    words += ["1", "--prior", "backoff", "--features", "category", "--client-optimizer", "sgd"]
    words += ["--local-epochs", "1", "--seq-len", "8", "--rounds", "2"]
    words += ["--server-lr", "0.1..2", "--trials", "12", "--no-prune", "--json", "--name"]

    def end(words):
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "Warning" not in done.stderr
        return json.loads(done.stdout)

    def kill_in_trial(number, words):
        """Start the command and kill it while it trains the trial of that number."""
        process = subprocess.Popen(
            words, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            assert process.poll() is None, "it ended before it could be killed"
            for run in (tmp_path / "log/sweeps/killed").glob(f"*-killed-{number}-seed0"):
                if (run / "metrics.csv").exists():
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    assert json.loads((run / "run.json").read_text())["status"] == "running"
                    return
            time.sleep(0.002)

    expected = end([*words, "whole"])
    kill_in_trial(3, [*words, "killed"])
    kill_in_trial(11, [*words, "killed"])  # drawn by TPE from the ten before
    resume = [sys.executable, "-m", "fedgru", "sweep", "--resume", "killed", "--json"]
    found = end(resume)
    told = ("trial", "params", "status", "value", "lowest", "highest", "why", "same_as")
    assert [{k: t[k] for k in told} for t in found["trials"]] == [
        {k: t[k] for k in told} for t in expected["trials"]
    ]
    assert len(found["trials"]) == 12 and len({t["value"] for t in found["trials"]}) == 12
    for key in ("trial", "params", "value", "command"):
        assert found["best"][key] == expected["best"][key]
    (ours,), (theirs,) = found["best"]["test"], expected["best"]["test"]
    assert {**ours, "run": None} == {**theirs, "run": None}
    # the two that were cut off were each run again once, and say so
    states = {}
    for file in (tmp_path / "log/sweeps/killed").glob("*/run.json"):
        facts = json.loads(file.read_text())
        states.setdefault(facts["sweep"]["trial"], []).append(facts["status"])
    assert {trial: sorted(s) for trial, s in states.items()} == {
        trial: ["done", "failed"] if trial in (3, 11) else ["done"] for trial in range(1, 13)
    }
    shutil.rmtree(tmp_path / "log")
