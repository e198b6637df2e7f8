"""fedgru/runs/mlflow.py: a run in MLflow, read back by MLflow's own client."""

import csv
import json
import logging
import os
import re
import sys
from pathlib import Path

import pytest

from fedgru import config
from fedgru.core.errors import ConfigError, RunError
from fedgru.runs.listing import open_run
from fedgru.runs.mlflow import MlflowTracker
from tests.cli.test_main import SMALL, invoke


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    invoke("data", "synth", "--name", "hamlet", "--users", 6, "--checkins-per-user", 40)
    return tmp_path


def test_a_run_is_logged_as_it_is_in_its_folder(here):
    """About 10 seconds: MLflow is imported and makes a database."""
    pytest.importorskip("mlflow", reason="needs the extra: pip install 'fedgru[mlflow]'")
    result = invoke("train", *SMALL, "--name", "tracked", "--no-eval", "--mlflow")
    from mlflow import MlflowClient

    folder = next(here.glob("log/*-tracked"))
    uri = f"sqlite:///{here}/log/mlflow/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("fedgru")
    (run,) = client.search_runs([experiment.experiment_id])
    assert result.stderr.splitlines()[-1] == f"MLflow run {run.info.run_id} at {uri}"
    assert run.info.run_name == folder.name
    assert run.info.status == "FINISHED"
    settings = config.load(config_file=folder / "config.toml")
    assert len(run.data.params) == len(config.fields())
    assert run.data.params["client.client_lr"] == str(settings.client.client_lr) == "0.002"
    assert run.data.params["data.users"] == "None"
    with open(folder / "metrics.csv") as stream:
        rows = list(csv.DictReader(stream))
    history = client.get_metric_history(run.info.run_id, "val/acc_at_1/micro")
    assert [(m.step, m.value) for m in history] == [
        (int(row["round"]), float(row["val/acc@1/micro"])) for row in rows
    ]
    assert len(client.get_metric_history(run.info.run_id, "train/loss/micro")) == 2  # not round 0
    assert not any(name.startswith("test/") for name in run.data.metrics)

    for _ in range(2):  # the second time replaces nothing and adds nothing
        invoke("eval", "--mlflow")
    (run,) = client.search_runs([experiment.experiment_id])  # the same run, with its test
    report = json.loads((folder / "test.json").read_text())
    (tested,) = client.get_metric_history(run.info.run_id, "test/acc_at_5/micro")
    assert (tested.step, tested.value) == (report["round"], report["test/acc@5/micro"])
    assert len(client.get_metric_history(run.info.run_id, "val/acc_at_1/micro")) == len(rows)
    artifacts = here / "log/mlflow/artifacts" / run.info.run_id / "artifacts"
    for name in ("config.toml", "test.json", "metrics.csv"):
        assert (artifacts / name).read_bytes() == (folder / name).read_bytes()
    logged, facts = (json.loads((at / "run.json").read_text()) for at in (artifacts, folder))
    assert facts.keys() - logged.keys() == {"salt", "data_dir"}
    assert {path.name for path in artifacts.iterdir()} == {
        *("config.toml", "test.json", "metrics.csv", "run.json")
    }  # no ids of people
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
    assert logging.getLogger("mlflow").level == logging.WARNING


def test_a_counting_baseline_is_logged_without_rounds(here):
    pytest.importorskip("mlflow", reason="needs the extra: pip install 'fedgru[mlflow]'")
    invoke("baseline", "last", "--data", "hamlet", "--name", "counts")
    tracker = MlflowTracker(f"sqlite:///{here}/runs.db", here)
    run_id = tracker.log_run(open_run("log"))
    from mlflow import MlflowClient

    logged = MlflowClient(tracking_uri=tracker.uri).get_run(run_id)
    assert {name.partition("/")[0] for name in logged.data.metrics} == {"test"}


def test_without_mlflow_one_message_says_what_to_install(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = invoke("train", *SMALL, "--mlflow", code=1)
    assert result.stderr == (
        "Error: --mlflow needs MLflow, which is not installed. Install it with: "
        "pip install 'fedgru[mlflow]'\n"
    )
    assert not Path("log").exists()


def test_what_is_no_uri_is_refused(tmp_path):
    message = (
        "`mlflow` is log/my-run, expected nothing or a tracking URI such as sqlite:///mlflow.db or "
        "http://localhost:5000. The name of a run comes before it."
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        MlflowTracker("log/my-run", tmp_path)


def test_a_store_that_mlflow_refuses_is_an_error_before_training(tmp_path):
    pytest.importorskip("mlflow", reason="needs the extra: pip install 'fedgru[mlflow]'")
    uri = f"file://{tmp_path}/files"
    message = f"cannot log to MLflow at {uri}: The filesystem tracking backend"
    with pytest.raises(RunError, match=f"^{re.escape(message)}"):
        MlflowTracker(uri, tmp_path)
