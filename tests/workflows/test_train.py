"""fedgru/workflows/train.py: the main job around the round loop, and the texts that tell of it."""

import json
import re
from functools import partial

import numpy as np
import pytest
from tqdm import tqdm

from fedgru import config
from fedgru.core.errors import DataError, Interrupted, Terminated
from fedgru.data import datasets
from fedgru.engines.base import Engine, RoundResult
from fedgru.runs import listing
from fedgru.workflows import open as open_workflow
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import make_check_ins


class StillEngine(Engine):
    """Learns nothing: states are zero; a round scales the prior and nothing else."""

    name = "still"
    runs_whole_rounds = True
    stops_in = None
    stops_by = KeyboardInterrupt
    scale = np.float32(1)

    def run_round(self, algorithm, state, cohort):
        if state.round_num + 1 == self.stops_in:
            raise self.stops_by
        weights = state.weights | {"prior_scale": self.scale * state.weights["prior_scale"]}
        new = type(state)(weights, state.optimizer, state.round_num + 1)
        return RoundResult(new, {"loss": 2.0, "acc@1": 0.5}, len(cohort), 10)

    def hidden_states(self, weights, first_positions, end_positions, wanted):
        return np.zeros((len(wanted), self.task.spec.hidden_dim), np.float32)


@pytest.fixture
def train(make_task, tmp_path, monkeypatch):
    """Train with the StillEngine, stopped by Ctrl-C in a round if asked to."""
    monkeypatch.setattr(train_workflow, "make_engine", lambda task, *_, **__: StillEngine(task))

    def train(stops_in=None, show_progress=False, **overrides):
        monkeypatch.setattr(StillEngine, "stops_in", stops_in)
        task = make_task(rounds=2, prior="backoff", **overrides)
        run, task, result = train_workflow.train(task, {}, tmp_path / "log", show_progress)
        return task, run, result

    return train


def test_a_progress_bar(train, capsys, monkeypatch):
    monkeypatch.setattr(train_workflow, "tqdm", partial(tqdm, mininterval=0))
    task, run, result = train(show_progress=True)
    assert (result.last.round_num, run.facts()["status"]) == (2, "done")
    out, err = capsys.readouterr()
    first, last = err.split("\r")[1], err.split("\r")[-3]  # after the last, a blank line
    assert "0/2 [00:00<?, ?round/s]" in first
    assert re.search(r" 2/2 \[00:\d\d<00:00, .*loss=2.000, val loss=2.\d+, val acc=0.\d+\]", last)
    assert out == ""
    train()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("stops_in", "how_far"), [(1, "before round 1"), (2, "after round 1 of 2")]
)
@pytest.mark.parametrize(
    ("signal", "name", "code"), [(KeyboardInterrupt, "Ctrl-C", 130), (Terminated, "SIGTERM", 143)]
)
def test_a_round_that_is_cut_short(
    train, tmp_path, monkeypatch, stops_in, how_far, signal, name, code
):
    monkeypatch.setattr(StillEngine, "scale", np.float32(0.9))  # counts claim too much: better
    monkeypatch.setattr(StillEngine, "stops_by", signal)
    with pytest.raises(Interrupted) as error:
        train(stops_in)
    run = listing.open_run(tmp_path / "log")
    assert error.value.exit_code == code
    assert str(error.value) == (
        f"stopped by {name} {how_far}. Resume it with: fedgru train --resume {run.path}"
    )
    assert (run.status(), run.facts()["error"]) == ("interrupted", str(error.value))
    assert "Traceback" not in (run.path / "run.log").read_text()
    if stops_in == 2:  # what is best so far can be scored
        assert run.load_weights("best")[1] == 1


def test_the_report_of_a_run(train):
    task, run, _ = train()
    report = score_workflow.evaluate_run(run, task)
    assert report == json.loads((run.path / "test.json").read_text())
    assert (report["run"], report["round"], report["test/clients"]) == (str(run.path), 0, 6)
    # a network that says nothing leaves the counts: the prior's scale starts at 1
    ours = {key: value for key, value in report.items() if key.endswith(("micro", "macro"))}
    backoff = report["baselines"]["running_backoff"]
    assert ours == pytest.approx({key: backoff[key] for key in ours})
    gain = report["gains"]["running_backoff"]["test/loss/micro"]
    assert [gain["difference"], *gain["interval"]] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("venues", "split"),
    [
        # 20 check-ins: 12 of train, 4 of validation, 4 of test; the last 8 or 4 are at new venues
        ("ababababababcdefghij", "validation"),
        ("ababababababababcdef", "test"),
    ],
)
def test_nothing_to_score(venues, split, monkeypatch):
    check_ins = make_check_ins(["ann"] * 20, ["Home"] * 20, list(venues))
    data_set = datasets.DataSet("town", check_ins, {"fingerprint": "x"})
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: data_set)
    settings = config.load({"target": "venue", "prior": "none", "batch_size": 1, "seq_len": 4})
    with pytest.raises(DataError) as error:
        open_workflow.open_task(settings, "data")
    assert str(error.value) == (
        f"nothing to score: none of the 4 {split} targets has a venue that occurs in train. Take "
        "more users or more check-ins."
    )
