"""What the round loop reads of a task, wherever the check-ins are."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from fedgru.agnostic.protection import Protection
from fedgru.config.settings import Settings
from fedgru.models.gru import ModelSpec
from fedgru.task.kernel_prior import Kernel


@runtime_checkable
class RoundClients(Protocol):
    """Who takes part.

    Attributes:
        client_ids: a text per client; a client's number is its place in it.
    """

    @property
    def client_ids(self) -> Sequence[str]: ...


@runtime_checkable
class RoundTask(Protocol):
    """A task as the round loop sees it: `fedgru.task.task.Task`, or `RemoteTask` of a deployment.

    Attributes:
        settings: Settings.
        spec: ModelSpec, from which weights are made.
        kernel: the Kernel that the clients have learnt, with `prior` kernel; else None.
        protection: Protection, with `agnostic_to`; else None.
        clients: RoundClients.
        training_clients: int64, numbers of the clients that cohorts are drawn from.
        attackers: numbers of the clients that send malicious updates, with `attack`.
    """

    @property
    def settings(self) -> Settings: ...
    @property
    def spec(self) -> ModelSpec: ...
    @property
    def kernel(self) -> Kernel | None: ...
    @property
    def protection(self) -> Protection | None: ...
    @property
    def clients(self) -> RoundClients: ...
    @property
    def training_clients(self) -> npt.NDArray[np.int64]: ...
    @property
    def attackers(self) -> frozenset[int]: ...

    def draw(self, generator: np.random.Generator, number: int) -> npt.NDArray[np.int64]:
        """Return the numbers of this many training clients, sorted, drawn without replacement."""

    def release(self) -> None:
        """Release the memory of what was read and can be read again."""
