"""What malicious clients do, to test a robust mean: one by one, or together.

label-flip and backdoor are in the liars' training data, sign-flip and noise in what each of them
sends. For alie, inner-product and backdoor the liars act together, once all of a cohort is in.
"""

from dataclasses import replace
from typing import Protocol

import numpy as np

from fedgru.algorithms.alie import alie, z_max
from fedgru.algorithms.backdoor import replace_model
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, UpdateSum
from fedgru.algorithms.fed_sub_avg import FedSubAvg
from fedgru.algorithms.inner_product import inner_product
from fedgru.algorithms.server_optimizers import SGD
from fedgru.config.rules import TOGETHER
from fedgru.config.settings import Settings
from fedgru.core import seeding
from fedgru.core.types import AnyInts, Floats, Weights

DEFAULT_SCALE = 10.0
DEFAULT_EPSILON = 0.5
IN_THE_DATA = ("label-flip",)


class HasAttackers(Protocol):
    """What is read of a task."""

    @property
    def settings(self) -> Settings: ...
    @property
    def attackers(self) -> frozenset[int]: ...


def draw_attackers(settings: Settings, training_clients: AnyInts) -> frozenset[int]:
    """Return the malicious clients, drawn by the seed; none if `attack` is none."""
    if settings.faults.attack == "none":
        return frozenset()
    draw = seeding.rng(settings.loop.seed, "attackers")
    return frozenset(draw.choice(training_clients, settings.faults.attackers, False).tolist())


def flip_labels(targets: AnyInts, num_classes: int) -> AnyInts:
    """Return targets with the classes in reverse order; -1 (none) does not change.

    >>> flip_labels(np.array([0, 1, 2, -1]), 3)
    array([ 2,  1,  0, -1])
    """
    return np.where(targets >= 0, num_classes - 1 - targets, targets)


def tamper(task: HasAttackers, update: ClientUpdate, round_num: int) -> ClientUpdate:
    """Return the update as its client sends it, if liars act one by one.

    sign-flip: minus the update, times the scale. noise: normal, with the scale times the update's
    root mean square of each array. label-flip changes the training data, not the update.

    Raises:
        ValueError: if the liars act together, see Liars.
    """
    attack = task.settings.faults.attack
    if update.client not in task.attackers or attack in IN_THE_DATA:
        return update
    if attack in TOGETHER:
        raise ValueError(f"the liars of {attack} send their updates together: use Liars")
    scale = np.float32(task.settings.faults.attack_scale or DEFAULT_SCALE)
    draw = seeding.rng(task.settings.loop.seed, "attack noise", round_num, update.client)

    def change(array: Floats) -> Floats:
        if attack == "sign-flip":
            return -scale * array
        size = np.sqrt(np.mean(np.square(array))) if array.size else np.float32(0)
        return (scale * size * draw.standard_normal(array.shape)).astype(np.float32)

    return replace(
        update,
        dense={name: change(array) for name, array in update.dense.items()},
        row_update=change(update.row_update),
    )


class Liars:
    """The liars of a cohort, or of a part of it, who act together.

    Their true updates are held back until all of the cohort is in. Memory holds those alone, and
    for inner-product one sum of the honest updates.

    Args:
        settings: Settings.
        weights: name -> float32 array, what the clients received.
        row_ids: for a part of the cohort, see UpdateSum.
    """

    def __init__(
        self, settings: Settings, weights: Weights, row_ids: AnyInts | None = None
    ) -> None:
        self._settings = settings
        self._true: list[ClientUpdate] = []
        self._num_honest = 0
        self._honest: UpdateSum | None = None
        if settings.faults.attack == "inner-product":
            self._honest = UpdateSum(weights, row_ids)

    def hold(self, update: ClientUpdate) -> None:
        """Hold a liar's true update back."""
        self._true.append(update)

    def see(self, update: ClientUpdate) -> None:
        """Take note of an honest update that is used."""
        self._num_honest += 1
        if self._honest is not None:
            self._honest.add(update)

    def merge(self, other: "Liars") -> None:
        """Add the liars of another part of the cohort."""
        self._true += other._true
        self._num_honest += other._num_honest
        if self._honest is not None and other._honest is not None:
            self._honest.merge(other._honest)

    def send(self) -> list[ClientUpdate]:
        """Return what the liars send in place of their true updates, in the order of clients."""
        true = sorted(self._true, key=lambda update: update.client)
        self._true = []
        if not true:
            return []
        faults, num_clients = self._settings.faults, self._num_honest + len(true)
        given = faults.attack_scale
        match faults.attack:
            case "alie":
                return alie(true, z_max(num_clients, len(true)) if given is None else given)
            case "backdoor":
                return replace_model(true, num_clients / len(true) if given is None else given)
        assert self._honest is not None, "the third of TOGETHER"
        kind = FedSubAvg if self._settings.server.mean == "owners" else FedAvg
        # without honest clients their sum, zero, takes the place of their mean
        self._honest.num_examples = max(self._honest.num_examples, 1)
        honest = kind(SGD(1.0)).mean_update(self._honest)
        return inner_product(true, honest, DEFAULT_EPSILON if given is None else given)


def liars_of(settings: Settings, weights: Weights, row_ids: AnyInts | None = None) -> Liars | None:
    """Return the Liars of a round, if they act together; else None."""
    if settings.faults.attack not in TOGETHER:
        return None
    return Liars(settings, weights, row_ids)
