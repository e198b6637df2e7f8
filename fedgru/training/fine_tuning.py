"""Personalisation: each client's copy of the model, trained on before it is scored."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from fedgru import algorithms
from fedgru.core.types import Ints, Weights
from fedgru.engines.fastest import fastest
from fedgru.evaluation import evaluate
from fedgru.evaluation.evaluate import Evaluation
from fedgru.task.task import Task


def scored_that_train(task: Task) -> Ints:
    """Return int64, ascending: the clients that are scored and have a local step to train."""
    return task.training_clients[task.training_clients < len(task.clients.scored)]


def evaluate_fine_tuned(
    task: Task,
    weights: Weights,
    epochs: int,
    round_num: int,
    on_client: Callable[[], object] | None = None,
) -> Evaluation:
    """Train a copy per client on its own train split, and score its test targets with it.

    Optimizer, learning rate and dropout are those of a round of training. Each client keeps what it
    learns.

    Args:
        task: Task.
        weights: name -> float32 array, what every client starts from.
        epochs: local epochs.
        round_num: the round of the weights; dropout is drawn as in the next round.
        on_client: called after each client, without arguments, or None.

    Returns:
        Evaluation of the test split, the state warmed by all of the past. A client with too little
        training data is scored with the given weights.
    """
    rule = algorithms.from_settings(task.settings).client_rule
    engine = fastest(task)(task, replace(rule, local_epochs=epochs))
    parts = {}
    scored, tuned = np.arange(len(task.clients.scored)), scored_that_train(task)
    for update in engine.local_updates(weights, tuned, round_num + 1):
        own = {name: weights[name] + change for name, change in update.dense.items()}
        own["rows"] = weights["rows"].copy()
        own["rows"][update.row_ids] += update.row_update
        parts[update.client] = evaluate.evaluate(engine, own, "test", clients=[update.client])
        if on_client is not None:
            on_client()
    for untrained in np.setdiff1d(scored, tuned):
        parts[int(untrained)] = evaluate.evaluate(engine, weights, "test", clients=[untrained])
    return evaluate.join([parts[client] for client in scored.tolist()])
