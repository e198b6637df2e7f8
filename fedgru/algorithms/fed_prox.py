"""FedProx (Li et al. 2020): clients are held near the weights that they received."""

from dataclasses import replace
from typing import Any

from fedgru.algorithms.fed_avg import FedAvg, ServerState, Total
from fedgru.core.types import AnyInts, Weights


class FedProx:
    """Any mean and server optimizer, with a proximal term in each client's objective.

    Client k minimises its own loss F_k plus a penalty for leaving the weights w_t it received:

        h_k(w; w_t) = F_k(w) + mu / 2 * ||w - w_t||^2,

    so each local step adds mu * (w - w_t) to the gradient. The server does not change. With mu = 0
    this equals `server_half` bit by bit.

    Args:
        server_half: FedAvg or a subclass; the term is added to its client rule.
        prox_mu: mu, not negative.

    Attributes:
        client_rule: ClientRule, with mu.

    Source: Li et al. 2020 (arXiv:1812.06127), Algorithm 2 and equation (2). There clients can stop
        at any inexact minimum; here they run all local epochs. There Adam is not used; here Adam
        gets the sum of both gradients.
    """

    name = "fed_prox"

    def __init__(self, server_half: FedAvg, prox_mu: float) -> None:
        if not prox_mu >= 0:
            raise ValueError(f"prox_mu is {prox_mu}, expected at least 0")
        self.server_half = server_half
        self.server_optimizer = server_half.server_optimizer
        self.client_rule = replace(server_half.client_rule, prox_mu=prox_mu)

    def init(self, weights: Weights) -> ServerState:
        """See FedAvg.init."""
        return self.server_half.init(weights)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        """See FedAvg.start."""
        return self.server_half.start(weights, row_ids)

    def apply(self, state: ServerState, total: Any) -> ServerState:
        """See FedAvg.apply."""
        return self.server_half.apply(state, total)
