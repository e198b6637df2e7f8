"""Ditto (Li et al. 2021): each client has a model of its own, held near the shared one."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from fedgru.algorithms.client_start import ClientStart, own_weights
from fedgru.algorithms.fed_avg import FedAvg, ServerState
from fedgru.algorithms.per_client import Arrays, PerClient, PersonalModel, Tools, as_own
from fedgru.core.types import AnyInts, Weights


class Ditto(PerClient):
    """The shared model is trained as ever; beside it each client trains a model v_k of its own.

    With w_t the received weights, in each round that the client takes part in,

        v_k <- local steps on F_k(v) + lambda / 2 * ||v - w_t||^2, from v_k; at first from w_t

    The client is scored with v_k; a client that has not trained yet with the shared model, which
    is that of the server half to the bit, whatever lambda is. With lambda 0 the v_k are local
    models.

    Args:
        server_half: FedAvg or FedSubAvg.
        ditto_weight: lambda, not negative.

    Source: Li et al. 2021 (arXiv:2012.04221), Algorithm 1. There a client's steps of v_k follow
        each of its shared steps and start from zero-initialised v_k; here v_k takes the local
        epochs of the client rule and starts from the first weights that the client received.
    """

    name: ClassVar[str] = "ditto"
    keeps: ClassVar[bool] = True
    personal: ClassVar[bool] = True

    def __init__(self, server_half: FedAvg, ditto_weight: float) -> None:
        if not ditto_weight >= 0:
            raise ValueError(f"ditto_weight is {ditto_weight}, expected at least 0")
        super().__init__(server_half)
        self.personal_rule = replace(self.client_rule, prox_mu=ditto_weight, by_client=True)

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        """Let the cohort train its own models."""

        def start(client: int, row_ids: AnyInts) -> ClientStart:
            received, kept = own_weights(state.weights, row_ids), tools.kept(client)
            own = received if kept is None else {name: kept[name] for name in received}
            return ClientStart(own, anchor=received)

        for update in tools.updates(self.personal_rule, state.weights, cohort, start):
            moved, before = as_own(update), start(update.client, update.row_ids).weights
            own = {name: before[name] + change for name, change in moved.items()}
            tools.keep(update.client, {**own, "row_ids": update.row_ids})
        return state, {}

    def model_of(self, weights: Weights, client: int, kept: Arrays | None) -> PersonalModel:
        if kept is None:
            return PersonalModel(weights)
        dense = {name: kept[name] for name in weights if name != "rows"}
        return PersonalModel({**weights, **dense}, kept["row_ids"], kept["rows"])
