"""A package of somebody else's, written from docs/recipes.md, goes through every command.

It lies in the current folder and is not installed. All is typed in a shell; a training is killed.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ("metrics.csv", "best.npz", "last.npz")
RULE = '''
"""Each client's update is damped by how often it has sent one; it has a head bias of its own."""


import numpy as np

from fedgru.algorithms import PerClient, PersonalModel
from fedgru.algorithms.per_client import as_own, with_arrays


class Rule(PerClient):
    """Send 1 / n of the n-th update; keep the number, and what was not sent."""

    name = "damped"
    keeps = True
    personal = True

    def __init__(self, settings, half):
        super().__init__(half)

    def finish(self, visit, start, update):
        """See PerClient.finish."""
        before = 0 if visit.kept is None else visit.kept["count"]
        count = np.float32(before + 1)
        whole = as_own(update)
        sent = {name: array / count for name, array in whole.items()}
        rest = {name: array - sent[name] for name, array in whole.items() if name != "rows"}
        return with_arrays(update, sent), {**rest, "count": count}

    def model_of(self, weights, client, kept):
        """See PerClient.model_of."""
        if kept is None:
            return PersonalModel(weights)
        rest = {name: array for name, array in kept.items() if name != "count"}
        own = {name: weights[name] + array for name, array in rest.items()}
        return PersonalModel({**weights, **own})
'''
MODEL = '''
"""A GRU on embedded ids, with dropout."""

import keras


def build(inputs):
    """Return a stateful Keras model from the inputs to scores."""
    tensors = inputs.tensors()
    table = keras.layers.Embedding(inputs.num_rows + 1, 8, name="rows")
    x = keras.ops.sum(table(inputs.table_rows(tensors)), axis=2)
    numbers = [keras.ops.expand_dims(tensors[name], -1) for name in inputs.number_names]
    x = keras.layers.Concatenate()([x, *numbers]) if numbers else x
    x = keras.layers.Dropout(0.2)(x)
    x = keras.layers.GRU(6, return_sequences=True, stateful=True)(x)
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes)(x))
'''
FEATURE = '''
"""How often the venue was visited before."""

import numpy as np


def visits_before(check_ins):
    """Return float32 [num_checkins]."""
    seen, counts = {}, []
    for venue in check_ins.venue:
        counts.append(seen.get(venue, 0))
        seen[venue] = counts[-1] + 1
    return np.array(counts, np.float32)
'''
ALWAYS = "--data hamlet --features category,venue --prior none --batch-size 2 --seq-len 5"
ALWAYS += " --local-epochs 1 --client-lr 0.01 --clients-per-round 4 --patience 0"
RULE_NAME = "beyond:Rule"
RULE_OPTIONS = f"--algorithm {RULE_NAME}"
MODEL_OPTIONS = "--model beyond.networks:build --engine reference"
FEATURE_OPTIONS = "--features category,venue,beyond.places:visits_before"
# options of the training, rounds, names that every text must have
CASES = {
    "algorithm": (f"{RULE_OPTIONS} --hidden-dim 8 --threads 1", 150, [RULE_NAME]),
    "model": (MODEL_OPTIONS, 12, ["beyond.networks:build"]),
    "both, and a feature": (
        f"{RULE_OPTIONS} {MODEL_OPTIONS} {FEATURE_OPTIONS}",
        12,
        [RULE_NAME, "beyond.networks:build"],
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with the package and a data set."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beyond").mkdir()
    (tmp_path / "beyond/__init__.py").write_text(RULE)
    (tmp_path / "beyond/networks.py").write_text(MODEL)
    (tmp_path / "beyond/places.py").write_text(FEATURE)
    fedgru("data synth --name hamlet --users 6 --checkins-per-user 40")
    return tmp_path


def command_of(words):
    return [sys.executable, "-m", "fedgru", *map(str, words)]


def environment():
    return os.environ | {"PYTHONPATH": str(ROOT)}


def fedgru(text, *words):
    """Run a command in a process of its own; return its stdout and its stderr."""
    done = subprocess.run(
        command_of([*text.split(), *words]), capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    return done.stdout, done.stderr


def killed_after_round_3(words):
    """Start a training, and kill it when it has logged its round 3."""
    with subprocess.Popen(
        command_of(["train", *words]),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as program:
        try:
            for line in program.stderr:
                if line.startswith("round 3:"):
                    program.kill()
            assert program.wait(30) == -signal.SIGKILL
        finally:
            program.kill()


def last_checkpoint(run):
    return max(int(path.stem.partition("-")[2]) for path in run.glob("checkpoints/*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_trained_killed_resumed_and_read_by_every_command(here, case):
    options, rounds, names = CASES[case]
    words = [*ALWAYS.split(), *options.split(), "--rounds", str(rounds)]
    _, said = fedgru("train", *words, "--name", "whole")
    for name in names:
        assert re.search(rf"^(Algorithm|Model): {name}\b", said, re.M), said
    killed_after_round_3([*words, "--name", "cut"])
    (whole,), (cut,) = here.glob("log/*-whole"), here.glob("log/*-cut")
    assert 2 <= last_checkpoint(cut) < rounds  # that of round 3 can be on its way
    fedgru("train --resume", cut)
    for file in RESULTS:
        assert (whole / file).read_bytes() == (cut / file).read_bytes(), file
    test, resumed = (json.loads((run / "test.json").read_text("utf-8")) for run in (whole, cut))
    assert test["round"] == resumed["round"] > 0
    for key in (key for key in test if key.startswith("test/")):
        assert test[key] == resumed[key], key

    words = [f"{'algorithm' if name == RULE_NAME else 'model'} {name}" for name in names]
    heading = f"{cut}, data set hamlet, {', '.join(words)}\n"
    report, said = fedgru("eval", cut)
    assert said.endswith(heading)
    assert "Worst tenth of clients by acc@1 (1 of 6): acc@1 " in report
    again, _ = fedgru("eval --json", cut)
    assert json.loads(again)["test/acc@1/micro"] == test["test/acc@1/micro"]
    report, said = fedgru("audit --concept weekend --probe logistic", cut)
    assert heading in said
    assert "best probe of the representation (logistic)" in report
    assert ("audited: the model that a new client starts with" in report) == (RULE_NAME in names)
    numbers = FEATURE_OPTIONS in options  # else the check of their scaling does not apply
    found = "12 checks: 12 ok." if numbers else "12 checks: 11 ok, 1 not applicable."
    assert found in fedgru("check", cut)[0]
    fedgru("report --output page.html", cut)
    page = (here / "page.html").read_text("utf-8")
    assert all(name in page for name in names)
    client = (cut / "clients.csv").read_text("utf-8").splitlines()[1].split(",")[0]
    found, said = fedgru("predict --client", client, cut)
    assert heading in said
    assert re.search(r"^    5  ", found, re.M)
    for kind in ("keras", "weights"):
        _, said = fedgru(f"export --to {kind} --output {kind}", cut)
        assert heading in said
    (shown, _), (listed, _) = fedgru("runs show", cut.name), fedgru("runs list")
    assert all(name in shown for name in names)
    assert f"{cut.name}" in listed
