"""Local training: one model per client, and nothing is exchanged. What does federation gain?

A baseline. Each client knows only its own train split: its vocabulary, its table, its frequencies
and its kernel come from it. All clients share the list of classes and the scale of the numbers.
Each client stops early by its own validation.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.server_optimizers import SGD
from fedgru.core import seeding
from fedgru.core.errors import RunError, TrainingError
from fedgru.core.jax_setup import num_threads
from fedgru.core.types import Row, Weights
from fedgru.engines.jax.engine import JaxEngine
from fedgru.evaluation import evaluate
from fedgru.evaluation.evaluate import Evaluation
from fedgru.task import features
from fedgru.task.clients import Clients
from fedgru.task.kernel_prior import Kernel
from fedgru.task.task import Task
from fedgru.training import loop as round_loop
from fedgru.training.early_stopping import EarlyStopping
from fedgru.training.fine_tuning import scored_that_train
from fedgru.training.loop import number
from fedgru.training.rounds import run_round

logger = logging.getLogger(__name__)


# (train metrics, or None before training; examples; val Evaluation) of a round of one client
LocalRound: TypeAlias = tuple[Mapping[str, float] | None, int, evaluate.Evaluation]


@dataclass(frozen=True)
class LocalModel:
    """What one client has learnt alone.

    Attributes:
        weights: name -> float32 array, of the client's own table.
        kernel: Kernel, with `prior` kernel; else None.
        best_round: the best round on its validation; 0 if none was better than before training.
    """

    weights: Weights
    kernel: Kernel | None
    best_round: int


def alone(task: Task, client: int) -> Task:
    """Return the Task of one client that knows nothing of the others.

    Args:
        task: Task of all.
        client: index of the client.
    """
    start, end = task.clients.starts[client : client + 2]
    train_end, part = task.clients.train_ends[client], slice(start, end)
    sessions, unscored = task.clients.session_starts, task.clients.unscored
    clients = Clients(
        client_ids=(task.clients.client_ids[client],),
        rows=task.clients.rows[part],
        starts=np.array([0, end - start]),
        train_ends=np.array([train_end - start]),
        val_ends=np.array([task.clients.val_ends[client] - start]),
        session_starts=None if sessions is None else sessions[part],
        unscored=None if unscored is None else unscored[part],
    )
    one_thread = task.settings.loop.model_copy(
        update={"threads": 1, "clients_per_round": None, "eval_clients": None}
    )
    return replace(
        task,
        settings=task.settings.model_copy(update={"loop": one_thread}),
        clients=clients,
        inputs=features.narrowed(task.inputs, part, slice(start, train_end)),
        classes=task.classes[part],
        target_codes=task.target_codes[part],
        history=task.history[part],
        kernel=None,
        best_prob=None if task.best_prob is None else task.best_prob[part],
        coverage=[],
        training_clients=np.flatnonzero(np.isin([client], task.training_clients)),
    )


def train_local(
    task: Task, on_client: Callable[[], object] | None = None
) -> tuple[list[LocalModel], list[Row]]:
    """Train every client alone that is scored.

    Args:
        task: Task.
        on_client: called after each client, without arguments, or None.

    Returns:
        (models, rows): a LocalModel per client; and per round, from 0, {"split/metric/average"}
        over all clients; a client that has stopped counts with its last round.
    """
    # without a proximal term: a client alone has no received weights to stay near
    rule = ClientRule.of(task.settings.client)
    engine = JaxEngine(alone(task, int(task.training_clients[0])), rule)

    def train(client: int) -> tuple[LocalModel, list[LocalRound]]:
        trained = _train_one(engine, alone(task, client), client)
        if on_client is not None:
            on_client()
        return trained

    with ThreadPoolExecutor(num_threads(task.settings.loop.threads)) as pool:
        found = list(pool.map(train, range(len(task.clients.scored))))
    models, histories = [model for model, _ in found], [history for _, history in found]
    able = len(scored_that_train(task))
    idle = len(models) - able
    if idle:
        logger.warning("%d clients have too few check-ins to train on: theirs is untrained", idle)
    unimproved = sum(model.best_round == 0 for model in models) - idle
    if unimproved:
        logger.warning(
            "%d of %d clients found no round better than before training",
            unimproved,
            able,
        )
    rows = []
    for round_num in range(max(len(history) for history in histories)):
        now = [history[min(round_num, len(history) - 1)] for history in histories]
        row: Row = {"train/loss/micro": None, "train/acc@1/micro": None}
        trained = [(train, n) for train, n, _ in now if train is not None]
        if round_num and trained:
            total = sum(n for _, n in trained)
            for name in ("loss", "acc@1"):
                row[f"train/{name}/micro"] = sum(m[name] * n for m, n in trained) / total
        rows.append(row | join(task, [scored for _, _, scored in now]).summary())
    return models, rows


def _train_one(engine: JaxEngine, task: Task, client: int) -> tuple[LocalModel, list[LocalRound]]:
    """Return a client's LocalModel, and per round (train metrics, examples, val Evaluation)."""
    task = task.with_kernel()
    engine = engine.beside(task)
    loop = task.settings.loop
    metric = round_loop.parse_stop_metric(loop.stop_metric)
    stopping = EarlyStopping(metric.higher_is_better, loop.patience, loop.min_improvement)
    algorithm = FedAvg(SGD(1.0), engine.client_rule)  # of one client: its update, unchanged
    weights = task.spec.init_weights(seeding.rng(loop.seed, "weights", client=client))
    state = best = algorithm.init(weights)
    found = evaluate.evaluate(engine, state.weights, "val")
    history: list[LocalRound] = [(None, 0, found)]
    stopping.report(0, _value(found, loop.stop_metric))
    for round_num in range(1, loop.rounds + 1 if len(task.training_clients) else 1):
        try:
            result = run_round(engine, algorithm, state, task.training_clients)
        except TrainingError as error:
            logger.warning("%s That client keeps its round %d.", error, best.round_num)
            break
        state = result.state
        found = evaluate.evaluate(engine, state.weights, "val")
        history.append((result.metrics, result.num_examples, found))
        improved, stop = stopping.report(round_num, _value(found, loop.stop_metric))
        best = state if improved else best
        if stop:
            break
    return LocalModel(best.weights, task.kernel, best.round_num), history


def _value(found: Evaluation, key: str) -> float:
    """The stop metric; NaN for a client that has no validation target to score."""
    return number(found.summary(), key) if len(found.positions) else float("nan")


def evaluate_local(
    task: Task, models: Sequence[LocalModel], split: str, warm: bool = True
) -> Evaluation:
    """Score each client's targets with its own model; see `evaluate.evaluate`."""
    engine = JaxEngine(alone(task, 0))
    parts = []
    for client, model in enumerate(models):
        own = replace(alone(task, client), kernel=model.kernel)
        parts.append(evaluate.evaluate(engine.beside(own), model.weights, split, warm))
    return join(task, parts)


def join(task: Task, parts: Sequence[Evaluation]) -> Evaluation:
    """Return the Evaluation of all clients from one each."""
    starts = task.clients.scored.starts[:-1]
    return evaluate.join(
        parts, [start + part.positions for start, part in zip(starts, parts, strict=True)]
    )


def to_arrays(models: Sequence[LocalModel]) -> dict[str, npt.NDArray[Any]]:
    """Return {name: array} as LocalModels are stored: `3/rows` is the table of client 3."""
    arrays: dict[str, Any] = {}
    for client, model in enumerate(models):
        arrays |= {f"{client}/{name}": array for name, array in model.weights.items()}
        if model.kernel is not None:
            numbers = model.kernel.to_dict()
            arrays |= {f"{client}/kernel/{n}": np.float64(v) for n, v in numbers.items()}
        arrays[f"{client}/best_round"] = np.int64(model.best_round)
    return arrays


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], num_clients: int) -> list[LocalModel]:
    """Return the LocalModels of `to_arrays`.

    Raises:
        RunError: if they are not of that many clients.
    """
    by_client: list[dict[str, npt.NDArray[Any]]] = [{} for _ in range(num_clients)]
    for key, array in arrays.items():
        digits, _, name = key.partition("/")
        if not digits.isdecimal() or int(digits) >= num_clients:
            raise RunError(f"the weights are of other clients: {key!r} in a run of {num_clients}.")
        by_client[int(digits)][name] = array
    models = []
    for client, own in enumerate(by_client):
        if "best_round" not in own:
            raise RunError(f"the weights of client {client} are missing.")
        kernel = {n.partition("/")[2]: float(v) for n, v in own.items() if n.startswith("kernel/")}
        weights = {n: a for n, a in own.items() if n != "best_round" and "/" not in n}
        models.append(
            LocalModel(
                weights, Kernel.from_dict(kernel) if kernel else None, int(own["best_round"])
            )
        )
    return models
