"""The client's end: its own check-ins, its own task, the jax engine's local training.

Flower starts a process for every message. So only needed packages are imported (JAX is, TensorFlow
is not), and the check-ins are stored as a data set in the client's folder.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgru.algorithms import faults
from fedgru.algorithms.fed_avg import counted_once
from fedgru.config import EMBEDDED
from fedgru.core import seeding
from fedgru.core.errors import DataError, TrainingError
from fedgru.core.jax_setup import compiled_in
from fedgru.core.types import Weights
from fedgru.core.version import __version__
from fedgru.core.visible import VisibleFormatter
from fedgru.data import datasets
from fedgru.deploy import private, records, secure, terms
from fedgru.deploy.app import PLAIN, App, read_app, refuse_own_features
from fedgru.deploy.limits import OutOfTime, limited
from fedgru.deploy.privacy import Privacy, protect
from fedgru.deploy.system_noise import SystemNoise
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.task.task import Task, build_task

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from flwr.clientapp import ClientApp

    from fedgru.algorithms.fed_avg import ClientUpdate
    from fedgru.data.datasets import DataSet
    from fedgru.deploy.records import Ask
    from fedgru.evaluation.evaluate import Evaluation

DATA_SET = "own"  # the name of the client's data set in its folder
# they need only the client's check-ins
OWN_BASELINES = ("last", "frequency", "user_markov", "running_user_markov")
LOG = "client.log"

logger = logging.getLogger(__name__)


class DeviceEngine(JaxEngine):
    """The fast engine of one client; its number in the federation seeds its dropout.

    Args:
        task: Task of the one client.
        number: int, the client's number in the federation.
    """

    def __init__(self, task: Task, number: int) -> None:
        super().__init__(task)
        self._number = number

    def dropout_key(self, round_num: int, client: int) -> Any:
        """See JaxEngine.dropout_key; `client` is 0, the key depends on the federation's number."""
        return seeding.key_words(self.task.settings.loop.seed, "dropout", round_num, self._number)


def check_one_person(data_set: DataSet) -> None:
    """Raise a DataError unless a DataSet is of one person."""
    users = len(data_set.check_ins.user.values)
    if users != 1:
        raise DataError(
            f"the file has the check-ins of {users:,} people, a client is one person: give each "
            "their own file."
        )


def own_task(app: App, data_set: DataSet) -> Task:
    """Return the Task of one client: its own check-ins, the app's tables.

    Args:
        app: App.
        data_set: DataSet of one person.

    Raises:
        ConfigError: if the app asks for a feature that is not fedgru's.
        DataError: if it holds several people, or too few check-ins.
    """
    check_one_person(data_set)
    refuse_own_features(app.settings)  # an app can come from anybody
    loop = app.settings.loop.model_copy(update={"clients_per_round": None, "threads": None})
    alone = app.settings.faults.model_copy(update={"min_clients": 1})
    data = app.settings.data.model_copy(update={"data": EMBEDDED, "users": None})
    settings = app.settings.model_copy(update={"loop": loop, "faults": alone, "data": data})
    return build_task(data_set, settings, app.schema.kernel, app.fitted)


def answer(task: Task, ask: Ask, weights: Weights, privacy: Privacy = PLAIN) -> dict[str, Any]:
    """Do what the server asks and return {name: record} of the reply.

    Args:
        task: Task of the client.
        ask: Ask.
        weights: name -> float32 array.
        privacy: Privacy.
    """
    engine, reply = DeviceEngine(task, ask.client), {}
    if ask.score:
        evaluations = {records.MODEL: evaluate.evaluate(engine, weights, ask.score)}
        if ask.score == "test":
            evaluations |= _baselines(task)
        if len(evaluations[records.MODEL].positions):
            reply[ask.score] = records.pack_scores(evaluations)
    if ask.train:
        if privacy.secure:
            raise TrainingError("the server asked for a plain update, but the app is `secure`.")
        reply |= records.pack_update(train(task, ask, weights, privacy))
    return reply


def train(task: Task, ask: Ask, weights: Weights, privacy: Privacy) -> ClientUpdate:
    """Return the ClientUpdate of a round, protected as the app demands.

    Raises:
        TrainingError: with secure aggregation, for an update that the server would leave out of
            the mean if it could see it.
    """
    engine = DeviceEngine(task, ask.client)
    (update,) = engine.local_updates(weights, task.training_clients, ask.round_num)
    if privacy.secure and (why := faults.problem(update, weights)) is not None:
        raise TrainingError(f"the update is kept here: {why}.")
    if task.settings.server.client_weights == "equal":
        update = counted_once(update)  # its number of examples stays here
    return protect(update, len(weights["rows"]), privacy, ask.cohort, SystemNoise())


def _baselines(task: Task) -> dict[str, Evaluation]:
    """The counting baselines that a client can compute alone, on its test split."""
    names = [name for name in OWN_BASELINES if name in evaluate.ranking_baselines(task)]
    found = {name: evaluate.evaluate_counts(task, name, "test") for name in names}
    for kind in evaluate.running_baselines(task):
        found[f"running_{kind}"] = evaluate.evaluate_running(task, kind, "test")
    return found


def hello(task: Task) -> dict[str, Any]:
    """Return {name: record} of a client's counts, which the server receives before training."""
    from flwr.app import MetricRecord

    local = [task.local_data(int(client)) for client in task.training_clients]
    counts = {
        "checkins": len(task.check_ins),
        "examples": sum(data.num_examples for data in local),
        "val": len(task.clients.target_positions("val")),
        "test": len(task.clients.target_positions("test")),
        "version": [int(part) for part in __version__.split(".")[:3]],
    }
    return {"hello": MetricRecord(counts)}


def make_client_app(package: str | Path) -> ClientApp:
    """Return Flower's ClientApp for the app in a folder; the app's client_app.py calls this.

    Args:
        package: folder with the app's settings and tables.
    """
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.query()
    def say_hello(message: Message, context: Context) -> Message:
        return _reply(message, context, package, lambda app: _join(app, context))

    @app.train()
    def work(message: Message, context: Context) -> Message:
        if secure.is_part(message):
            return _reply(message, context, package, lambda app: _mask(message, context, app))
        return _reply(
            message,
            context,
            package,
            lambda app: _work(message, context, app),
        )

    return app


def _join(app: App, context: Context) -> dict[str, Any]:
    logger.info("a server asks for training; %s", app.privacy)
    terms.check_app(Path(context.node_config["folder"]), app)
    return hello(_own_task(app, context))


def _work(message: Message, context: Context, app: App) -> dict[str, Any]:
    ask, weights = records.unpack_ask(message.content)
    if ask.train:
        _spend(ask, context, app)
    return answer(_own_task(app, context), ask, weights, app.privacy)


def _spend(ask: Ask, context: Context, app: App) -> None:
    terms.spend(Path(context.node_config["folder"]), app, ask.round_num, ask.cohort)


def _own_task(app: App, context: Context) -> Task:
    return own_task(app, datasets.open_data_set(DATA_SET, context.node_config["folder"]))


def _mask(message: Message, context: Context, app: App) -> dict[str, Any]:
    """A step of the secure aggregation; return {name: record} of the reply."""

    def train_now() -> tuple[ClientUpdate, int]:
        ask, weights = records.unpack_ask(message.content)
        _spend(ask, context, app)
        update = train(_own_task(app, context), ask, weights, app.privacy)
        return update, len(weights["rows"])

    return dict(secure.reply(message, context, train_now).content)


def _reply(
    message: Message, context: Context, package: str | Path, act: Callable[[App], dict[str, Any]]
) -> Message:
    """Answer a message; an error is logged in full here, and the server receives only its kind.

    A message expires when the server stops waiting for its reply.
    """
    from flwr.app import Message, RecordDict

    folder = Path(context.node_config["folder"])
    started = time.perf_counter()
    with logging_to(folder / LOG):
        try:
            with limited(message.metadata.ttl), compiled_in(folder / "compiled"):
                content = act(read_app(package))
            done = ", ".join(content) or "nothing"
            logger.info("sent %s after %.1f s", done, time.perf_counter() - started)
        except OutOfTime as error:
            logger.error("%s: this process ends, the next message starts a new one", error)
            content = records.pack_error(error)
        except terms.Refused as error:
            logger.error("refused: %s", error)
            content = records.pack_error(error)
        except Exception as error:
            logger.exception("failed; the server receives only %s", type(error).__name__)
            content = records.pack_error(error)
    reply = Message(RecordDict(content), reply_to=message)
    if context.node_config.get("record"):
        _record(reply, folder / "sent")
    return reply


@contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """A context in which fedgru's log lines go to a file."""
    handler = logging.FileHandler(file, encoding="utf-8")
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger("fedgru")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()


def _record(reply: Message, folder: Path) -> None:
    """Write the bytes of a reply, as Flower sends them, to a new file."""
    folder.mkdir(exist_ok=True)
    name = f"{len(list(folder.iterdir())):06d}.bin"
    (folder / name).write_bytes(private.wire_bytes(reply))
