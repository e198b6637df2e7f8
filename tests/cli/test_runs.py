"""`fedgru runs` and `fedgru compare` as typed: exit code, output, whole messages."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.cli.main import main
from fedgru.runs import folder as run_folder


@pytest.fixture
def log(tmp_path, monkeypatch):
    """Two runs in log/, made at the same moment: first (evaluated), then second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_folder.time, "strftime", lambda _: "2026-11-24-120000")
    made = []
    for name in ("first", "second"):
        run = run_folder.RunFolder.create(
            "log", config.load({"name": name, "rounds": 3}), {"data": "town", "fingerprint": "f"}
        )
        run.write_facts({"status": "done", "why": "all rounds done", "rounds": 3, "best_round": 2})
        made.append(run)
    table = {"client_id": ["ann"], "targets": [4], "unknown_targets": [0], "acc@1": [0.75]}
    report = {"round": 2, "test/acc@1/micro": 0.75}
    made[0].save_test(report, table, {"row": np.arange(4)})
    return made


def invoke(*args, **options):
    return CliRunner().invoke(main, [str(arg) for arg in args], **options)


def test_the_list_has_the_last_run_first(log):
    result = invoke("runs", "list")
    assert result.stdout.splitlines() == [
        "run                       kind       data  status  seed  rounds  best  acc@1   loss",
        "2026-11-24-120000-second  federated  town  done    0     3       2     -       -",
        "2026-11-24-120000-first   federated  town  done    0     3       2     0.7500  -",
    ]
    assert [run["run"] for run in json.loads(invoke("runs", "list", "--json").stdout)] == [
        *("2026-11-24-120000-second", "2026-11-24-120000-first")
    ]


def test_a_damaged_run_is_listed_with_what_is_wrong(log):
    (log[0].path / "run.json").write_text("{")
    listed = {run["run"]: run for run in json.loads(invoke("runs", "list", "--json").stdout)}
    assert listed[log[0].path.name]["status"].startswith(
        f"{log[0].path / 'run.json'} is damaged, it is not JSON"
    )


def test_no_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("runs", "list")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no run in log/. Make one with: fedgru train --features big\n"


def test_show(log):
    result = invoke("runs", "show", "second")
    assert result.stdout.splitlines()[2:] == [
        "  all rounds done; best is round 2 of 3",
        "Settings other than the defaults:",
        "  --rounds 3",
        "  --name second",
        "Not evaluated. Evaluate it with: fedgru eval log/2026-11-24-120000-second",
    ]
    shown = json.loads(invoke("runs", "show", "first", "--json").stdout)
    assert shown["settings"]["loop"]["rounds"] == 3
    assert shown["test"]["test/acc@1/micro"] == 0.75


def test_removing_asks_first(log):
    result = invoke("runs", "rm", "first", log[0].path, input="n\n")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        "log/2026-11-24-120000-first",
        "Delete 1 run for good? [y/N]: n",
    ]
    assert log[0].path.exists()
    result = invoke("runs", "rm", "first", "second", "--yes")
    assert result.stdout == ("deleted: log/2026-11-24-120000-first, log/2026-11-24-120000-second\n")
    assert not any(run.path.exists() for run in log)


def test_a_run_elsewhere_is_not_removed(log, tmp_path):
    moved = tmp_path / "elsewhere"
    log[0].path.rename(moved)
    result = invoke("runs", "rm", moved, "second", "--yes")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[-1] == (f"Error: {moved} is not in log/: delete it yourself.")
    assert moved.exists() and log[1].path.exists()


def test_a_name_that_several_runs_have(log):
    run_folder.RunFolder.create("log", config.load({"name": "first"}), {})
    result = invoke("runs", "show", "first", "--json")
    assert json.loads(result.stdout)["run"] == log[0].path.name  # the new one's ends in first-2
    (log[1].path).rename(log[1].path.with_name("2026-11-25-120000-first"))
    result = invoke("runs", "show", "first")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: 2 runs have the name first: ")
    result = invoke("runs", "show", "third")
    assert result.stderr == (
        "Error: no run third: neither third nor log/third is a folder with a run.json, and no run "
        "in log/ has that --name.\n"
    )


def test_compare_says_what_is_missing(log):
    result = invoke("compare", "first", "second")
    assert result.exit_code == 1
    assert result.stderr == (
        f"Error: {log[1].path} has no predictions.parquet: score it with: "
        f"fedgru eval {log[1].path}\n"
    )
    result = invoke("compare", "first", "second", "--json", "--markdown")
    assert result.exit_code == 2
    assert "--markdown and --json exclude each other: give one of them." in result.stderr
