"""Runs whose clients keep something: stopped and resumed, scored, predicted with and exported."""

import json

import numpy as np
import pytest

from fedgru.core.errors import ConfigError, RunError
from fedgru.data import datasets
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.predict.export import export_run
from fedgru.predict.load import load_model
from fedgru.runs import listing
from fedgru.runs.checkpoints import Checkpoints
from fedgru.storage.client_store import ClientStore, dump
from fedgru.workflows import open as open_workflow
from fedgru.workflows import personal
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import score as score_workflow
from fedgru.workflows import train as train_workflow
from tests.conftest import slow_but

SGD = {"client_optimizer": "sgd", "client_lr": 0.1}
CASES = {
    "scaffold": SGD | {"algorithm": "scaffold"},
    "ditto": {"algorithm": "ditto", "client_lr": 0.01},
    "ifca": {"algorithm": "ifca", "server_optimizer": "adam", "server_lr": 0.01},
    "fed-per": {"algorithm": "fed-per", "personal_weights": "head_bias,rows"},
    "agnostic-fl": {"algorithm": "agnostic-fl", "mixture_lr": 0.2},
    "mime-lite": SGD | {"algorithm": "mime-lite"},
    "compressed": {"compress": "top-20%"},
    # a slot of the server's, as the momentum of mime-lite
    "centred-clipping": {"robust": "centred-clipping", "clip_norm": 0.05},
}
RESULTS = ("metrics.csv", "best.npz", "last.npz")


class Killed(BaseException):
    """SIGKILL, as far as one process can play it."""


@pytest.fixture
def train(make_task, tiny_data_set, tmp_path, monkeypatch):
    """Train four rounds of three clients each in a new log folder."""
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)

    def train(log_dir, **overrides):
        given = {"rounds": 4, "clients_per_round": 3, "local_epochs": 1, "patience": 0}
        task = make_task(**(given | overrides))
        facts = open_workflow.facts_of(task)
        run, task, result = train_workflow.train(task, facts, tmp_path / log_dir)
        return run, task, result

    return train


def kept(run, round_num):
    """What clients keep after a round, with plain lists for arrays."""
    path = run.path / personal.STORE
    if not path.exists():
        return None
    return {
        client: {name: array.tolist() for name, array in arrays.items()}
        for client, arrays in dump(ClientStore(path), round_num)
    }


@pytest.mark.parametrize("case", slow_but(CASES, "ditto", "scaffold"))
def test_killed_between_what_clients_keep_and_the_checkpoint(train, tmp_path, monkeypatch, case):
    whole, _, result = train("whole", **CASES[case])
    save = Checkpoints.save

    def killed(self, checkpoint):
        if checkpoint.state.round_num == 3:  # what clients keep is committed
            self.wait()
            raise Killed
        save(self, checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", killed)
        with pytest.raises(Killed):
            train("log", **CASES[case])
    run = listing.open_run(tmp_path / "log")
    run, _, again = train_workflow.resume(run, "data")
    assert run.facts()["resumed"][-1]["after_round"] == 2
    for name in RESULTS:
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    for round_num in (result.best.round_num, 4):
        assert kept(run, round_num) == kept(whole, round_num)
    assert (kept(run, 4) is None) == (case in ("mime-lite", "centred-clipping"))


def test_a_resume_that_keeps_what_was_lost_is_seen(train, tmp_path, monkeypatch):
    """The planted fault: without going back, client 0 would start from its round 3."""
    whole, _, _ = train("whole", **CASES["ditto"])
    monkeypatch.setattr(ClientStore, "go_back_to", lambda *_: None)
    with monkeypatch.context() as patch:
        save = Checkpoints.save
        patch.setattr(
            Checkpoints,
            "save",
            lambda self, c: (
                save(self, c) if c.state.round_num < 3 else (_ for _ in ()).throw(Killed)
            ),
        )
        with pytest.raises(Killed):
            train("log", **CASES["ditto"])
    run, _, _ = train_workflow.resume(listing.open_run(tmp_path / "log"), "data")
    assert kept(run, 4) != kept(whole, 4)


def test_each_client_is_scored_with_its_own_model(train):
    run, task, result = train("log", prior="none", **CASES["ditto"])
    assert result.best.round_num > 0
    report = score_workflow.evaluate_run(run, task)
    weights, round_num = reopen_workflow.best_weights(run, task)
    engine = JaxEngine(task)
    parts = []
    for client, client_id in enumerate(task.clients.client_ids):
        own = personal.client_weights(run, task, weights, round_num, client_id)
        parts.append(evaluate.evaluate(engine, own, "test", clients=[client]))
    expected = evaluate.join(parts).summary()
    assert {key: report[key] for key in expected} == expected
    shared = evaluate.evaluate(engine, weights, "test").summary()
    assert report["test/loss/micro"] != shared["test/loss/micro"]
    assert report["audited"].startswith("the model that a new client starts with")
    assert report["round"] == result.best.round_num


def test_validation_is_that_of_the_own_models(train):
    run, task, _ = train("log", **CASES["fed-per"])
    weights, round_num = run.load_weights("last")
    assert round_num == 4
    engine = JaxEngine(task)
    parts = [
        evaluate.evaluate(
            engine,
            personal.client_weights(run, task, weights, 4, client_id),
            "val",
            clients=[client],
        )
        for client, client_id in enumerate(task.clients.client_ids)
    ]
    found = run.rounds()["val/loss/micro"][-1]
    assert found == pytest.approx(evaluate.join(parts).summary()["val/loss/micro"], rel=1e-12)


def test_the_model_of_a_client_is_loaded_and_exported(train, tmp_path):
    run, task, _ = train("log", prior="none", **CASES["fed-per"])
    weights, round_num = reopen_workflow.best_weights(run, task)
    client_id = task.clients.client_ids[2]
    own = personal.client_weights(run, task, weights, round_num, client_id)
    assert (own["rows"] != weights["rows"]).any()
    _, loaded, _ = load_model(run, task, client_id)
    _, shared, _ = load_model(run, task, "a new client")
    np.testing.assert_array_equal(loaded["rows"], own["rows"])
    np.testing.assert_array_equal(shared["rows"], weights["rows"])
    description = export_run(
        run, task, "weights", tmp_path / "exported", client=client_id, names=True
    )
    assert description["client"] == client_id
    with np.load(tmp_path / "exported/weights.npz") as arrays:
        np.testing.assert_array_equal(arrays["rows"], own["rows"])
    assert json.loads((tmp_path / "exported/model.json").read_text())["client"] == client_id
    with pytest.raises(ConfigError, match="`client` nobody is not among the clients of"):
        export_run(run, task, "weights", tmp_path / "other", client="nobody")


def test_a_shared_model_is_exported_without_a_client(train, tmp_path):
    run, task, _ = train("log", rounds=1)
    with pytest.raises(ConfigError, match="`client` has no effect on .*share one model"):
        export_run(run, task, "weights", tmp_path / "other", client=task.clients.client_ids[0])


def test_what_is_missing_is_said(train):
    run, task, _ = train("log", rounds=1, **CASES["ditto"])
    (run.path / personal.STORE).unlink()
    with pytest.raises(RunError, match=r"clients.sqlite is missing: it holds what the run's"):
        score_workflow.evaluate_run(run, task)
    with pytest.raises(ConfigError, match="have models of their own: leave `fine_tune` out"):
        score_workflow.evaluate_run(run, task, fine_tune=1)
