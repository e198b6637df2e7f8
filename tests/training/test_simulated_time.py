"""fedgru/training/simulated_time.py: how long rounds take, and who is in them."""

import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

from fedgru import algorithms, config
from fedgru.cli.main import main
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError, RunError
from fedgru.engines import registry
from fedgru.engines.jax.engine import JaxEngine
from fedgru.runs import folder as run_folder
from fedgru.training import loop as round_loop
from fedgru.training.simulated_time import Devices, SimulatedTraining, num_drawn, open_simulation
from fedgru.training.traffic import count_traffic, own_rows
from fedgru.workflows import train as train_workflow
from tests.conftest import start
from tests.training.conftest import results


@pytest.fixture
def training(make_task):
    def make(**overrides):
        task = make_task(**overrides)
        algorithm = algorithms.from_settings(task.settings)
        return SimulatedTraining(JaxEngine(task), algorithm, open_simulation(task))

    return make


def test_how_long_a_client_takes(make_task):
    # client 0 has 33 check-ins in train: 32 pairs, 2 streams of 16, 4 steps of 5, 4 epochs of them
    task = make_task(step_s=2.0, bandwidth_mbps=8.0, device_spread=0.0)
    _, state = start(task)
    traffic = count_traffic(state.weights, own_rows(task))
    devices = Devices(task, 4, None)
    for client, steps in enumerate([16, 12, 12, 12, 8, 8]):
        down, up = traffic.down_bytes[client], traffic.up_bytes[client]
        # 8 megabits a second are a byte a microsecond
        expected = round(steps * 2000 + (down + up) / 1000)
        assert devices.work(client) == (expected, down, up)
    one_epoch = Devices(task, 1, None).work(0)
    assert one_epoch.duration_ms == round(8000 + sum(devices.work(0)[1:]) / 1000)


def test_devices_differ_by_seed_and_client(make_task):
    task = make_task(step_s=2.0, bandwidth_mbps=8.0, device_spread=0.3, seed=5)
    work = Devices(task, 4, None).work(3)
    speed = math.exp(0.3 * seeding.rng(5, "device speed", 0, 3).normal())
    width = math.exp(0.3 * seeding.rng(5, "device bandwidth", 0, 3).normal())
    expected = 24_000 * speed + (work.down_bytes + work.up_bytes) / 1000 / width
    assert work.duration_ms == round(expected)
    # the logarithms of many devices have this spread
    logs = [math.log(seeding.rng(0, "device speed", 0, c).lognormal(0, 0.5)) for c in range(400)]
    assert np.std(logs) == pytest.approx(0.5, rel=0.1)


def test_without_availability_only_the_time_is_new(make_task, tmp_path):
    given = {"rounds": 3, "clients_per_round": 3, "client_dropout": 0.3, "dropout": 0.2}
    plain, _, _ = train_workflow.train(make_task(**given), {}, tmp_path / "plain")
    task = make_task(step_s=1.0, **given)
    timed, _, result = train_workflow.train(task, {}, tmp_path / "timed")
    assert results(timed)["last.npz"] == results(plain)["last.npz"]
    assert results(timed)["faults.csv"] == results(plain)["faults.csv"]
    rows, before = timed.rounds(), plain.rounds()
    added = ["train/hours/simulated", "train/down_bytes/simulated", "train/up_bytes/simulated"]
    assert [name for name in rows if name not in before] == added
    for name, column in before.items():
        np.testing.assert_array_equal(rows[name], column)
    devices, hours, down, up = Devices(task, 4, None), [0.0], [0], [0]
    for round_num in (1, 2, 3):
        cohort = round_loop.draw_cohort(task, round_num)
        gone = [id_ for number, id_, _ in result.faults if number == round_num]
        work = {c: devices.work(int(c)) for c in cohort}
        hours.append(hours[-1] + max(one.duration_ms for one in work.values()) / 3_600_000)
        down.append(down[-1] + sum(one.down_bytes for one in work.values()))
        sent = [one for c, one in work.items() if task.clients.client_ids[c] not in gone]
        up.append(up[-1] + sum(one.up_bytes for one in sent))
    np.testing.assert_allclose(rows[added[0]], hours, rtol=1e-12)
    assert rows[added[1]].tolist() == down and rows[added[2]].tolist() == up
    assert timed.facts()["simulated_hours"] == rows[added[0]][-1]
    assert "availability_sha256" not in timed.facts()
    log = (timed.path / "run.log").read_text()
    assert f"simulated {hours[1]:.4g} h, train " in log
    assert f"all rounds done after {hours[3]:.4g} simulated hours; best is round" in log
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(timed.path / "train"))
    events.Reload()
    assert [e.value for e in events.Scalars("hours/simulated")] == pytest.approx(hours)


def test_a_round_begins_when_enough_are_on(training, make_task, trace):
    # 12 steps of 60 s are 12 minutes. Client 1 is on from 1 to 2, client 3 from 1.5 to 1.75, and
    # that is enough for both to end; client 2 comes at 1.6
    file = trace(make_task(), (1, 1, 2), (3, 1.5, 1.75), (2, 1.6, 3))
    fast = {"bandwidth_mbps": 1e9, "device_spread": 0.0}
    simulated = training(availability=file, step_s=60.0, clients_per_round=2, seed=3, **fast)
    state = simulated.init()
    result = simulated.run_round(state, None)
    assert (result.num_clients, result.faults) == (2, {})
    assert result.state.simulated.hours == 1.7
    expected = super(SimulatedTraining, simulated).run_round(state, np.array([1, 3]))
    assert result.metrics == expected.metrics
    # at 1.7 all three are on and two are drawn; one of them goes off before 12 minutes are over
    after = simulated.run_round(result.state, None)
    drawn = np.sort(seeding.rng(3, "cohort", 2).choice(3, 2, replace=False))
    assert 2 in drawn  # client 3, which is on until 1.75
    assert after.faults == {"went off": [3]}
    assert after.state.simulated.hours == pytest.approx(1.9)


def test_whoever_goes_off_is_a_fault(training, make_task, trace):
    file = trace(make_task(), (0, 1, 1.1), (1, 1, 5))  # of 16 minutes client 0 is on for 6
    simulated = training(
        availability=file, step_s=60.0, bandwidth_mbps=1e9, device_spread=0.0, min_clients=2
    )
    state = simulated.init()
    result = simulated.run_round(state, None)
    assert (result.num_clients, result.faults) == (0, {"went off": [0]})  # fewer than 2: skipped
    assert result.state.simulated.hours == 1.2
    one = simulated.devices.work(0), simulated.devices.work(1)
    assert result.state.simulated.down_bytes == one[0].down_bytes + one[1].down_bytes
    assert result.state.simulated.up_bytes == one[1].up_bytes


def test_whoever_is_too_late(training, tmp_path):
    # 16, 12, 12, 12, 8 and 8 minutes; the deadline leaves out client 0 alone
    fast = {"step_s": 60.0, "bandwidth_mbps": 1e9, "device_spread": 0.0}
    simulated = training(deadline_min=12.0, **fast)
    state = simulated.init()
    result = simulated.run_round(state, None)
    assert (result.num_clients, result.faults) == (5, {"too late": [0]})
    assert result.state.simulated.hours == 0.2
    expected = super(SimulatedTraining, simulated).run_round(state, np.arange(1, 6))
    np.testing.assert_array_equal(result.state.weights["bias"], expected.state.weights["bias"])
    # without anybody who is late the round is over before the deadline
    early = training(deadline_min=20.0, **fast)
    result = early.run_round(early.init(), None)
    assert result.faults == {} and result.state.simulated.hours == 16 / 60
    run, _, _ = train_workflow.train(simulated.task, {}, tmp_path)
    client_id = simulated.task.clients.client_ids[0]
    lines = (run.path / "faults.csv").read_text().splitlines()
    assert lines[1] == f"1,{client_id},too late"
    assert run.facts()["faults"] == {"too late": run.facts()["rounds"]}


def test_a_deadline_that_nobody_meets(training):
    simulated = training(deadline_min=7.9, step_s=60.0, bandwidth_mbps=1e9, device_spread=0.0)
    result = simulated.run_round(simulated.init(), None)
    assert (result.num_clients, result.faults) == (0, {"too late": [0, 1, 2, 3, 4, 5]})
    assert result.state.simulated.time_ms == 7.9 * 60_000
    assert result.state.simulated.up_bytes == 0 < result.state.simulated.down_bytes


def test_the_first_to_report_make_the_round(training):
    # twice 3 clients are drawn, that is all; 4 and 5 take 8 minutes, then 1 is first among equals
    fast = {"step_s": 60.0, "bandwidth_mbps": 1e9, "device_spread": 0.0}
    simulated = training(clients_per_round=3, oversample=2.0, **fast)
    state = simulated.init()
    result = simulated.run_round(state, None)
    assert (result.num_clients, result.faults) == (3, {"too late": [0, 2, 3]})
    assert result.state.simulated.hours == 0.2
    expected = super(SimulatedTraining, simulated).run_round(state, np.array([1, 4, 5]))
    np.testing.assert_array_equal(result.state.weights["bias"], expected.state.weights["bias"])
    sent = [simulated.devices.work(c).up_bytes for c in (1, 4, 5)]
    assert result.state.simulated.up_bytes == sum(sent)


@pytest.mark.parametrize(("size", "factor", "drawn"), [(10, 1.1, 11), (10, 1.3, 13), (3, 1.1, 4)])
def test_how_many_are_drawn(size, factor, drawn):
    class Task:
        settings = config.load({"clients_per_round": size, "oversample": factor})

    assert num_drawn(Task) == drawn


def test_a_fault_has_one_reason(training, make_task, trace):
    # with a chance of 0.9 all drop out; 0 goes off before that can be seen, 1 is too late before
    file = trace(make_task(), (0, 0, 0.01), (1, 0, 0.19), (4, 0, 5))
    fast = {"step_s": 60.0, "bandwidth_mbps": 1e9, "device_spread": 0.0}
    simulated = training(availability=file, client_dropout=0.9, seed=1, deadline_min=11.0, **fast)
    found = simulated.run_round(simulated.init(), None).faults
    assert found == {"went off": [0], "too late": [1], "dropped out": [4]}


@pytest.mark.parametrize("after", [0, 2])
def test_resumed_it_ends_in_the_same_bytes(stopped, make_task, trace, after):
    file = trace(make_task(), *((c, 3 * c, 3 * c + 7) for c in range(6)))
    given = {"availability": file, "step_s": 600.0, "clients_per_round": 2, "client_dropout": 0.2}
    whole, run = stopped(after, server_optimizer="adam", server_lr=0.01, **given)
    run, _, _ = train_workflow.resume(run, "data")
    assert run.facts()["resumed"][-1]["after_round"] == after
    assert results(run) == results(whole)
    assert "went off" in (run.path / "faults.csv").read_text()
    assert run.facts()["simulated_hours"] == whole.facts()["simulated_hours"] > 8


def test_a_trace_that_has_changed(stopped, make_task, trace):
    file = trace(make_task(), (0, 0, 5), (1, 0, 5))
    _, run = stopped(availability=file)
    trace(make_task(), (0, 0, 5), (1, 0, 6))
    with pytest.raises(RunError) as error:
        train_workflow.resume(run, "data")
    assert str(error.value) == (
        f"{file} has changed since {run.path} was begun. Restore it, or train a new run with: "
        f"fedgru train --config {run.path}/config.toml"
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"availability": " "}, "`availability` is empty, expected none, clock or a CSV file."),
        (
            {"window_h": 3},
            "`window_h` has no effect with `availability` none. Use `availability` clock, or leave "
            "it out.",
        ),
        ({"availability": "clock", "window_h": 25}, "`window_h` is 25, expected at most 24."),
        ({"oversample": 1.3}, "`oversample` has no effect without `clients_per_round`."),
        ({"deadline_min": 0.0}, "`deadline_min` is 0.0, expected a number above 0."),
        ({"step_s": 0.0}, "`step_s` is 0.0, expected a number above 0."),
        (
            {"engine": "tff", "mean": "clients", "step_s": 1.0},
            "`engine` tff does not know `step_s`. Use `engine` jax, reference or ray, or leave "
            "`step_s` out.",
        ),
    ],
)
def test_settings_that_do_not_go_together(given, message):
    with pytest.raises(ConfigError) as error:
        registry.check(config.load(given))
    assert str(error.value) == message


def test_a_bad_trace_leaves_no_run(make_task, tmp_path):
    task = make_task(availability=str(tmp_path / "gone.csv"))
    with pytest.raises(DataError, match="gone.csv', expected none, clock or a"):
        train_workflow.train(task, {}, tmp_path / "log")
    assert not (tmp_path / "log").exists()


@pytest.mark.slow
def test_hours_are_shown_beside_the_rounds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def invoke(*words):
        result = CliRunner().invoke(main, words, prog_name="fedgru")
        assert result.exit_code == 0, result.output
        return result.stdout

    small = ("--users", "6", "--rounds", "2", "--hidden-dim", "8", "--prior", "none")
    invoke("train", *small, "--name", "plain")
    timed = ("--name", "night", "--availability", "clock", "--step-s", "60")
    printed = invoke("train", *small, *timed, "--clients-per-round", "2")
    (run,) = (tmp_path / "log").glob("*-night")
    hours = float((run / "metrics.csv").read_text().splitlines()[3].split(",")[3])
    best = run_folder.RunFolder(run).facts()["best_round"]
    assert best == 2 and hours > 1
    assert json.loads((run / "test.json").read_text())["simulated_hours"] == hours
    assert f", round 2 after {hours:.4g} simulated hours, next check-in: " in printed
    simulated = f"Simulated time up to the best round: night 2 rounds, {hours:.4g} hours."
    assert simulated in invoke("compare", "plain", "night").splitlines()
    found = json.loads(invoke("compare", "night", "plain", "--json"))["simulated"]
    assert found == [{"label": "night", "rounds": 2.0, "hours": hours}]
    invoke("report", "plain", "night", "--output", "report.html")
    text = (tmp_path / "report.html").read_text()
    assert (
        f"round 2 of 2, after {hours:.4g} simulated hours, which was kept for the best validation "
        "loss (hollow marker)" in text
    )
    assert f"night: its 2 rounds take {hours:.4g} hours of simulated time." in text
