"""The client half of an algorithm: how a client makes its update from the received weights."""

from collections.abc import Callable
from dataclasses import dataclass

from fedgru.config.settings import ClientSettings
from fedgru.core.types import AnyArray

_DEFAULTS = ClientSettings()


@dataclass(frozen=True)
class ClientRule:
    """What every client of a cohort does in a round. Algorithms make it, engines follow it.

    A local step uses the gradient

        gradient of the loss + prox_mu * (w - w_received) + correction(w, w_received).

    Attributes:
        optimizer: "adam" or "sgd"; its state starts anew in each round.
        client_lr: its learning rate.
        local_epochs: passes over the client's data.
        prox_mu: weight of the proximal term of FedProx; 0 for none.
        correction: function of (w, w_received), two arrays of one weight; it returns an array of
            their shape. It must use only arithmetic, because it gets arrays of JAX or TensorFlow.
            None adds nothing. The C code does not support it: then XLA runs the local steps, which
            is logged.
        at_received: whether every step uses the gradient at the received weights, without moving
            away from them: with optimizer sgd and client_lr 1 the update is minus the sum of the
            steps' gradients. XLA runs the local steps.
        by_client: whether each client has a `fedgru.algorithms.client_start.ClientStart` of its
            own. Clients are trained one in a call.

    Source: McMahan et al. 2017 (arXiv:1602.05629), Algorithm 1, ClientUpdate; Li et al. 2020
        (arXiv:1812.06127), equation (2), for the proximal term.
    """

    optimizer: str = _DEFAULTS.client_optimizer
    client_lr: float = _DEFAULTS.client_lr
    local_epochs: int = _DEFAULTS.local_epochs
    prox_mu: float = 0.0
    correction: Callable[[AnyArray, AnyArray], AnyArray] | None = None
    at_received: bool = False
    by_client: bool = False

    @classmethod
    def of(cls, client: ClientSettings) -> "ClientRule":
        """Return the rule of plain federated averaging with these ClientSettings."""
        return cls(client.client_optimizer, client.client_lr, client.local_epochs)

    @property
    def adds_to_gradient(self) -> bool:
        """Whether a step adds something to the loss's gradient."""
        return self.prox_mu != 0 or self.correction is not None

    def added(self, weight: AnyArray, received: AnyArray) -> AnyArray:
        """Return what is added to the gradient of one weight; only if `adds_to_gradient`."""
        terms = []
        if self.prox_mu != 0:
            terms.append(self.prox_mu * (weight - received))
        if self.correction is not None:
            terms.append(self.correction(weight, received))
        return terms[0] if len(terms) == 1 else terms[0] + terms[1]


DEFAULT_RULE = ClientRule()
