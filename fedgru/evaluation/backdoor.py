"""How often a planted backdoor works."""

import numpy as np

from fedgru.core.types import Row
from fedgru.evaluation.evaluate import Evaluation
from fedgru.task.task import Task


def success_rate(task: Task, evaluation: Evaluation) -> Row:
    """Return how often a model predicts the target class of the backdoor after its trigger.

    Counted are the honest clients' targets whose check-in before is of the trigger category, and
    that are not of the target class themselves.

    Args:
        task: Task.
        evaluation: Evaluation of some split.

    Returns:
        {"split/backdoor/micro": share of these targets, None if there are none,
        "split/backdoor_targets": their number}; empty without `attack` backdoor.
    """
    backdoor = task.backdoor
    if backdoor is None:
        return {}
    split, positions = evaluation.split, evaluation.positions
    (before,) = task.read(["history.categories"], positions - 1)
    (classes,) = task.read(["classes"], positions)
    owners = task.clients.client_of[positions]
    counted = (before == backdoor.trigger_code) & (classes != backdoor.target_class)
    counted &= ~np.isin(owners, sorted(task.attackers))
    hits = evaluation.scores.predicted[counted] == backdoor.target_class
    rate = float(hits.mean()) if len(hits) else None
    return {f"{split}/backdoor/micro": rate, f"{split}/backdoor_targets": int(counted.sum())}
