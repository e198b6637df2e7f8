"""fedgru/cli/sweep.py: commands as typed, exit code and whole message."""

import json
import logging
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.cli.main import main
from fedgru.core.errors import TrainingError
from tests.scripted import follow

SMALL = ["--data", "tiny", "--hidden-dim", 8, "--batch-size", 2, "--rounds", 2, "--threads", 1]
SMALL += ["--prior", "backoff"]


@pytest.fixture
def invoke(tiny_data_set, tmp_path, monkeypatch):
    """Run `fedgru sweep` here; the validation loss is 9 - round - client_lr - seed / 4."""
    monkeypatch.chdir(tmp_path)

    def loss(settings, round_num):
        if settings.client.client_lr > 1:
            raise TrainingError("training diverged.")
        return 9.0 - round_num - settings.client.client_lr - settings.loop.seed / 4

    trained = follow(monkeypatch, tiny_data_set, loss)

    def invoke(*words, code=0):
        words = ["sweep", *words]
        result = CliRunner().invoke(main, [str(word) for word in words], prog_name="fedgru")
        assert result.exit_code == code, result.output
        assert "Traceback" not in result.stderr and "Warning" not in result.stderr
        assert not logging.getLogger("fedgru").handlers
        return result

    invoke.trained = trained
    return invoke


@pytest.fixture
def no_audit(monkeypatch):
    """The probes of an evaluation are slow, and not what is tested here."""
    monkeypatch.setattr("fedgru.evaluation.audit.quick_audit", lambda *_: {})


def test_what_a_sweep_prints(invoke, no_audit, tmp_path):
    result = invoke(*SMALL, "--client-lr", "0.25,0.5,2", "--seeds", 2, "--name", "rates")
    log = "log/sweeps/rates"
    why = "training diverged. Details: "
    failed = next((tmp_path / log).glob("*-rates-3-seed0")).relative_to(tmp_path)
    assert result.stderr == (
        f"Sweep {log}, next check-in: 3 points in a grid, 2 seeds each: client_lr 0.25|0.5|2.0\n"
        "Each is scored on the same 40 validation targets of 6 clients of data set tiny by "
        "val/loss/micro\n"
        "trial 1 of 3: client_lr 0.25: val/loss/micro 6.6250 (6.5000 to 6.7500), 0.0 s\n"
        "trial 2 of 3: client_lr 0.5: val/loss/micro 6.3750 (6.2500 to 6.5000), 0.0 s\n"
        f"trial 3 of 3: client_lr 2.0: failed: {why}{failed}/run.log\n"
    )
    table, best, test = result.stdout.partition("Best: ")[0], *result.stdout.split("Test of ")
    assert table == (
        "trial  client_lr  val/loss/micro        over seeds  best round  seconds  status\n"
        "    2        0.5          6.3750  6.2500 to 6.5000     2/2 2/2      0.0  done\n"
        "    1       0.25          6.6250  6.5000 to 6.7500     2/2 2/2      0.0  done\n"
        "    3        2.0               -                 -           -      0.0  failed\n"
        "2 done, 1 failed\n"
        f"trial 3 failed: {why}{failed}/run.log\n"
    )
    assert best.removeprefix(table) == (
        "Best: client_lr 0.5, trial 2, val/loss/micro 6.3750 (6.2500 to 6.5000)\n"
        "Train it with: fedgru train --data tiny --prior backoff --batch-size 2 --hidden-dim 8 "
        "--client-lr 0.5 --rounds 2 --threads 1\n"
    )
    # zero states: what is left of the model is the prior, so it equals the counts
    lines = test.splitlines()
    assert lines[0] == (
        "only this point, chosen by validation: 51 targets of 6 clients, each scored once"
    )
    rows = {line[2:20].strip(): line[20:].split() for line in lines[2:6]}
    assert list(rows) == ["model", "lowest seed", "highest seed", "running backoff"]
    assert lines[1].split() == ["acc@1", "acc@5", "mrr", "loss"]
    assert {tuple(row) for row in rows.values()} == {("0.4314", "0.8333", "0.6024", "1.9913")}
    best = lines[6].split("  ")[1]  # on validation another count is the best: it has a row too
    for line, seed in zip(lines[7:11], (0, 0, 1, 1), strict=True):
        assert line.startswith(f"  seed {seed}, acc@1 against ")
    nothing = "acc@1 against running backoff: +0.0000 (+0.0000 to +0.0000, not significant)"
    assert [lines[7], lines[9]] == [f"  seed 0, {nothing}", f"  seed 1, {nothing}"]
    assert all(f"against {best}: " in line for line in (lines[8], lines[10]))
    runs = [path.relative_to(tmp_path) for path in sorted((tmp_path / log).glob("*-rates-2-*"))]
    assert lines[11:] == [*(f"Run folder:  {run}" for run in runs), f"All trials:  {log}/sweep.csv"]
    evaluated = sorted(file.parent.name for file in (tmp_path / log).glob("*/test.json"))
    assert evaluated == [run.name for run in runs]  # the best point's, no other was looked at


def test_json_and_going_on(invoke, no_audit):
    words = [*SMALL, "--client-lr", "0.25,0.5"]
    found = json.loads(invoke(*words, "--json").stdout)
    assert (found["sweep"], found["metric"]) == ("log/sweeps/client-lr", "val/loss/micro")
    assert found["best"]["params"] == {"client_lr": 0.5}
    assert [trial["value"] for trial in found["trials"]] == [6.75, 6.5]
    assert found["best"]["test"][0]["baselines"]["running_backoff"]["test/targets"] == 51
    assert len(invoke.trained) == 2
    assert json.loads(invoke(*words, "--json").stdout) == found
    assert json.loads(invoke("--resume", "client-lr", "--json").stdout) == found
    assert len(invoke.trained) == 2
    assert invoke("--resume", "client-lr", "--rounds", 3, "--seeds", 2, code=2).stderr == (
        "Usage: fedgru sweep [OPTIONS]\nTry 'fedgru sweep --help' for help.\n\n"
        "Error: --resume takes the settings from the sweep's folder: leave out --seeds, "
        "--rounds.\n"
    )
    assert invoke("--resume", "client-lr", "--trials", 3, code=1).stderr == (
        "Error: --trials is 3, but log/sweeps/client-lr is a grid of 2 points.\n"
    )
    assert invoke("--resume", "x", code=1).stderr == (
        "Error: no sweep x in log/sweeps. There are: client-lr.\n"
    )


def test_ranges_are_drawn(invoke, no_audit):
    result = invoke(*SMALL, "--client-lr", "1e-3..1", "--seq-len", "4..32", "--trials", 3)
    assert result.stderr.splitlines()[0] == (
        "Sweep log/sweeps/seq-len_client-lr, next check-in: 3 points drawn by TPE: seq_len 4..32 "
        "(evenly), client_lr 0.001..1 (by its logarithm)"
    )
    assert "3 done" in result.stdout
    command = re.search("^Train it with: fedgru (train .*)", result.stdout, re.MULTILINE)[1]
    words = shlex.split(command)
    assert "--seq-len" in words and "--client-lr" in words
    again = CliRunner().invoke(main, [*words, "--no-eval", "--name", "again"])
    assert again.exit_code == 0
    configs = [config.load(config_file=file) for file in Path("log").rglob("config.toml")]
    same = [c.model_copy(update={"loop": c.loop.model_copy(update={"name": "x"})}) for c in configs]
    assert len(same) == 4 and len(set(map(config.dump, same))) == 3


def test_all_trials_failed(invoke):
    result = invoke(*SMALL, "--client-lr", "2,3", code=1)
    assert "2 failed\n" in result.stdout
    assert re.search(
        r"\nError: all 2 trials of log/sweeps/client-lr failed. The first: training diverged. "
        r"Details: log/sweeps/client-lr/\S+-client-lr-1-seed0/run.log\n$",
        result.stderr,
    )


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            [],
            2,
            "nothing to sweep over. Give a setting several values, such as --seq-len 4,8,16,32, "
            "or a range, such as --client-lr 1e-4..1e-1.",
        ),
        (["--seq-len", "4,0"], 1, "--seq-len is 0, expected at least 1."),
        (["--seq-len", "4,x"], 2, "Invalid value for '--seq-len': 'x' is not a valid integer."),
        (["--dropout", "0.1..1.5"], 1, "--dropout is 1.5, expected a number below 1."),
        (
            ["--cell", "gru,rnn"],
            2,
            "Invalid value for '--cell': 'rnn' is not one of 'gru', 'lstm'.",
        ),
        (
            ["--seq-len", "8..4"],
            2,
            "Invalid value for '--seq-len': 8..4 is no range: LOW..HIGH, with LOW below HIGH.",
        ),
        (
            ["--clients-per-round", "3,9"],
            1,
            "--clients-per-round is 9, but the split has 6 clients with training data.",
        ),
        (
            ["--server-momentum", "0.5,0.9"],
            1,
            "--server-momentum has no effect with --server-optimizer sgd. Use --server-optimizer "
            "momentum, or leave it out.",
        ),
        (["--seq-len", "4,8", "--stop-metric", "loss"], 1, "--stop-metric is loss, expected val/"),
    ],
)
def test_what_is_refused_before_the_first_trial(invoke, tmp_path, words, code, message):
    result = invoke(*SMALL, *words, code=code)
    assert f"Error: {message}" in result.stderr
    assert not invoke.trained and not (tmp_path / "log").exists()


def test_a_worker_ends_with_its_parent():
    script = "from fedgru.cli.sweep import _end_with_parent; import time; _end_with_parent(); "
    worker = subprocess.Popen(
        [sys.executable, "-c", script + "print('up', flush=True); time.sleep(60)"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert worker.stdout.readline() == b"up\n" and worker.poll() is None
    worker.stdin.close()  # as the system does for a process that was killed
    assert worker.wait(timeout=20) == 1
    worker.stdout.close()


# Real processes that train with JAX: some 10 s, most of it starting and compiling.
@pytest.mark.slow
def test_several_processes_do_what_one_does(tmp_path):
    words = [sys.executable, "-m", "fedgru"]
    city = ["data", "synth", "--name", "tiny", "--users", "6", "--checkins-per-user", "40"]
    subprocess.run([*words, *city], cwd=tmp_path, check=True, capture_output=True)
    small = [str(word) for word in SMALL if word not in ("--threads", 1)]
    small += ["--features", "category", "--client-optimizer", "sgd", "--local-epochs", "1"]
    small += ["--dropout", "0", "--server-lr", "0.5,1,1.5,2", "--json", "--name"]
    found = []
    for processes in ("1", "2"):
        done = subprocess.run(
            [*words, "sweep", *small, f"with-{processes}", "--processes", processes],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert len(re.findall(r"^trial \d of 4: ", done.stderr, re.MULTILINE)) == 4
        found.append(json.loads(done.stdout))
    one, two = ([(t["params"], t["value"]) for t in one["trials"]] for one in found)
    assert one == two and len(one) == 4
    assert found[0]["best"]["params"] == found[1]["best"]["params"]
    folders = (tmp_path / "log/sweeps/with-2").glob("*/config.toml")
    assert {re.search("threads = (.*)", file.read_text())[1] for file in folders} == {"1"}
