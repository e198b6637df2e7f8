"""The server's end, run by Flower: fedgru's own round loop, and a run folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru import algorithms
from fedgru.core.errors import FedgruError
from fedgru.core.visible import VisibleFormatter
from fedgru.deploy.app import App, check_deployable, read_app
from fedgru.deploy.engine import FederationEngine, FederationTraining, RemoteTask
from fedgru.deploy.federation import Federation, unpack_members
from fedgru.deploy.scores import make_report
from fedgru.runs.folder import RunFolder
from fedgru.runs.kinds import DEPLOYED
from fedgru.storage.files import write_text
from fedgru.task.clients import CoverageLine
from fedgru.workflows import reopen as reopen_workflow
from fedgru.workflows import train as train_workflow

if TYPE_CHECKING:
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

STATE = "FEDGRU_DEPLOY_STATE"  # names the server's folder to the process that Flower starts
JOB, UNFINISHED, OUTCOME, LOG = "job.json", "unfinished", "outcome.json", "server.log"

logger = logging.getLogger(__name__)


def make_server_app(package: str | Path) -> ServerApp:
    """Return Flower's ServerApp for the app in a folder; the app's server_app.py calls this.

    Args:
        package: folder with the app's settings and tables.
    """
    from flwr.serverapp import ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        state = Path(os.environ[STATE])
        job = json.loads((state / JOB).read_text("utf-8"))
        handler = logging.FileHandler(state / LOG, encoding="utf-8")  # read by `serve.Server`
        handler.setFormatter(VisibleFormatter("%(message)s"))
        logging.getLogger("fedgru").addHandler(handler)
        logging.getLogger("fedgru").setLevel(logging.INFO)
        try:
            run = train(grid, read_app(package), job, state)
            outcome = {"run": str(run.path)}
        except FedgruError as error:
            outcome = {"error": str(error)}
        except Exception as error:
            logger.exception("the run failed")
            outcome = {"error": f"{type(error).__name__}: {error} (details: {state / LOG})"}
        write_text(state / OUTCOME, json.dumps(outcome))
        if "error" in outcome:
            raise RuntimeError(outcome["error"])

    return app


def train(grid: Grid, app: App, job: dict[str, Any], state: Path) -> RunFolder:
    """Train over the nodes of a grid, in a new run folder, or resume an unfinished run.

    Args:
        grid: Flower's Grid.
        app: App.
        job: dict: `log_dir`, `clients` to wait for, `timeout_s`.
        state: the server's folder, which names the unfinished run.

    Returns:
        RunFolder.
    """
    check_deployable(app.settings)
    epochs = app.settings.client.local_epochs
    federation = Federation(grid, timeout_s=job["timeout_s"], local_epochs=epochs)
    schema = app.schema
    task = RemoteTask(app.settings, schema.spec, schema.kernel, federation, app.privacy)
    engine = FederationEngine(task)
    training = FederationTraining(engine, algorithms.from_settings(app.settings))
    unfinished = state / UNFINISHED
    resumes, is_done = unfinished.exists(), False
    if resumes:
        run = RunFolder(unfinished.read_text("utf-8").strip())
        is_done = run.status() == "done"  # but was stopped before it had the test scores
        reopen_workflow.check_resumable(run)
        federation.members = unpack_members(run.facts()["members"])
        federation.admit()
    if not resumes:
        federation.wait_for(job["clients"])
        federation.begin()
        run = RunFolder.create(job["log_dir"], app.settings, _facts(app, federation))
        unfinished.write_text(f"{run.path.resolve()}\n", "utf-8")
    federation.on_change = lambda: run.write_facts({"members": _members(federation)})
    federation.on_change()
    with run, _stopped_by_flower():
        logger.info("run folder %s, %d clients", run.path, len(federation))
        logger.info("%s", app.privacy)
        if not is_done:
            train_workflow.train_in(run, training, resumes=resumes)
        weights, round_num = reopen_workflow.best_weights(run, task)
        found = engine.test(weights, round_num)
        head = {"run": str(run.path), "data": app.settings.data.data, "kind": DEPLOYED.name}
        head["task"] = app.settings.task_name
        report, table = make_report(found, federation.names, app.settings.loop.seed)
        run.save_summed_test(head | {"round": round_num} | report, table)
    unfinished.unlink()
    return run


@contextmanager
def _stopped_by_flower() -> Iterator[None]:
    """Turn the SystemExit of Flower's signal handlers into a KeyboardInterrupt."""
    try:
        yield
    except SystemExit as error:
        raise KeyboardInterrupt from error


def _facts(app: App, federation: Federation) -> dict[str, Any]:
    """The facts for run.json before round 1, without the members."""
    members = federation.members
    joined = CoverageLine("joined", len(members), sum(one.checkins for one in members))
    kernel = app.schema.kernel
    return {
        "kind": DEPLOYED.name,
        "data": app.settings.data.data,
        "fingerprint": app.sha256,
        "coverage": [vars(joined)],
        "unknown_rates": {},
        "num_classes": app.schema.spec.num_classes,
        "privacy": asdict(app.privacy),
        **({} if kernel is None else {"kernel": kernel.to_dict()}),
    }


def _members(federation: Federation) -> list[dict[str, Any]]:
    return [member.to_dict() for member in federation.members]
