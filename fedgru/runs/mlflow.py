"""Log a run to MLflow: its folder's content as params, metrics and artifacts of one MLflow run.

MLflow is an extra of fedgru; its telemetry is turned off.
"""

from __future__ import annotations

import logging
import os
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from fedgru import config
from fedgru.core.errors import ConfigError, RunError
from fedgru.runs import order
from fedgru.runs.share import shareable
from fedgru.storage.tables import to_json

if TYPE_CHECKING:
    from fedgru.runs.folder import RunFolder

EXPERIMENT = "fedgru"
# no clients.csv: it has ids, and a tracking server can be anybody's
ARTIFACTS = ("config.toml", "metrics.csv", "test.json")
LOCAL = "local"  # in place of a URI: a database in the log folder
BATCH = 1000  # metrics that MLflow takes in one call; params: 100


class MlflowTracker:
    """Writes finished runs to one MLflow tracking store.

    By default that is log/mlflow/mlflow.db, with the artifacts next to it. MLflow's own store of
    plain files is in maintenance mode and cannot be opened.
    """

    def __init__(self, uri: str, log_dir: str | Path) -> None:
        """Open the store; make it if there is none.

        Args:
            uri: tracking URI, or LOCAL.
            log_dir: folder of all runs.

        Raises:
            ConfigError: if MLflow is not installed, or `uri` is no URI.
            RunError: if the store cannot be opened.
        """
        if uri != LOCAL and ":" not in uri:
            raise ConfigError(
                f"`mlflow` is {uri}, expected nothing or a tracking URI such as "
                "sqlite:///mlflow.db or http://localhost:5000. The name of a run comes before it."
            )
        mlflow = _import_mlflow()
        artifacts = None
        if uri == LOCAL:
            folder = Path(log_dir, "mlflow").absolute()
            folder.mkdir(parents=True, exist_ok=True)
            uri, artifacts = f"sqlite:///{folder / 'mlflow.db'}", (folder / "artifacts").as_uri()
        self.uri = uri
        try:
            self._client = mlflow.MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(EXPERIMENT)
            self._experiment = (
                self._client.create_experiment(EXPERIMENT, artifact_location=artifacts)
                if found is None
                else found.experiment_id
            )
        except mlflow.MlflowException as error:
            raise RunError(f"cannot log to MLflow at {uri}: {error.message}") from error
        self._error = mlflow.MlflowException

    def log_run(self, run: RunFolder) -> str:
        """Log a run as the MLflow run of its folder's name; skip what was logged before.

        The params are its settings as `section.key`. The metrics are those of metrics.csv by round,
        and those of test.json at the best round; @ becomes _at_. The artifacts are ARTIFACTS and
        run.json, as `share` gives it away.

        Args:
            run: RunFolder.

        Returns:
            The id of the MLflow run.

        Raises:
            RunError: if MLflow refuses.
        """
        try:
            return self._log_run(run)
        except self._error as error:
            raise RunError(f"cannot log to MLflow at {self.uri}: {error.message}") from error

    def _log_run(self, run: RunFolder) -> str:
        from mlflow.entities import Metric, Param

        client, facts, settings = self._client, run.facts(), run.settings()
        started_ms = _milliseconds(facts["started"])
        name = run.path.resolve().name
        same = client.search_runs([self._experiment], f"attributes.run_name = '{name}'")
        if same:
            run_id, known = same[0].info.run_id, set(same[0].data.metrics)
        else:
            new = client.create_run(self._experiment, started_ms, run_name=name)
            run_id, known = new.info.run_id, set()
        params = [
            Param(f"{section}.{key}", str(getattr(getattr(settings, section), key)))
            for key, (section, _) in config.fields().items()
        ]
        client.log_batch(run_id, params=params)
        test = {k: v for k, v in run.test().items() if k.startswith("test/")}
        found = [
            (key, text, round_num)
            for key, texts in run.round_texts().items()
            if key != "round"
            for round_num, text in enumerate(texts)
        ]
        found += [(key, value, run.test().get("round", 0)) for key, value in test.items()]
        metrics = [
            Metric(_name(key), float(value), started_ms + step, step)
            for key, value, step in found
            if value not in ("", None)
            # test metrics are always logged again: their round can have changed
            and (key.startswith("test/") or _name(key) not in known)
        ]
        for begin in range(0, len(metrics), BATCH):
            client.log_batch(run_id, metrics=metrics[begin : begin + BATCH])
        for file in ARTIFACTS:
            if (run.path / file).exists():
                client.log_artifact(run_id, str(run.path / file))
        client.log_text(run_id, to_json(shareable(facts)), order.FACTS)
        ended = {"done": "FINISHED", "running": "RUNNING"}.get(facts["status"], "FAILED")
        client.set_terminated(run_id, ended)
        return run_id


def _import_mlflow() -> ModuleType:
    # before the import: MLflow reads these once
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
    try:
        import mlflow
    except ImportError:
        raise ConfigError(
            "`mlflow` needs MLflow, which is not installed. Install it with: "
            "pip install 'fedgru[mlflow]'"
        ) from None
    for name in ("mlflow", "alembic"):  # they report each table that they make
        logging.getLogger(name).setLevel(logging.WARNING)
    return mlflow


def _name(key: str) -> str:
    """A metric's name for MLflow, which allows no @."""
    return key.replace("@", "_at_")


def _milliseconds(text: str) -> int:
    return int(1000 * datetime.fromisoformat(text).timestamp())
