"""IFCA (Ghosh et al. 2020): several models, and each client trains the one that fits it best."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_start import ClientStart, own_weights
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState, Total
from fedgru.algorithms.per_client import Arrays, PerClient, PersonalModel, Tools, Visit
from fedgru.algorithms.sent import Sent
from fedgru.core import seeding
from fedgru.core.types import AnyInts, Weights


class Ifca(PerClient):
    """Clients are clustered by which of k models has the lowest loss on their train targets.

        j_i = argmin over j of F_i(w_j);  client i trains w_{j_i}
        w_j <- the server half, over the clients of the cohort with j_i = j

    Model 0 starts with the usual weights; in the others each array has the same numbers in another
    order. k = 1 is the server half to the bit. A client is scored with the model of its cluster; a
    client that has not trained yet with model 0.

    Args:
        server_half: FedAvg or FedSubAvg.
        num_clusters: k.
        seed: of the start weights.

    Source: Ghosh et al. 2020 (arXiv:2006.04088), Algorithm 1, option II (model averaging), without
        weights that all models share; Mansour et al. 2020 (arXiv:2002.10619) call it HypCluster.
    """

    name: ClassVar[str] = "ifca"
    keeps: ClassVar[bool] = True
    personal: ClassVar[bool] = True

    def __init__(self, server_half: FedAvg, num_clusters: int, seed: int) -> None:
        if num_clusters < 1:
            raise ValueError(f"num_clusters is {num_clusters}, expected at least 1")
        super().__init__(server_half, replace(server_half.client_rule, by_client=True))
        self.num_clusters, self._seed = num_clusters, seed
        self.sent = Sent(down=num_clusters, sums=1)

    def init(self, weights: Weights) -> ServerState:
        first = self.server_half.init(weights)
        merged, slots = dict(weights), dict(first.optimizer)
        for cluster in range(1, self.num_clusters):
            draw = seeding.rng(self._seed, "cluster weights", cluster)
            own = {
                name: draw.permutation(array.ravel()).reshape(array.shape)
                for name, array in weights.items()
            }
            merged |= _named(own, cluster)
            slots |= _named(self.server_half.init(own).optimizer, cluster)
        return ServerState(merged, slots, 0)

    def received(self, weights: Weights) -> Weights:
        return self.model(weights, 0)

    def model(self, weights: Weights, cluster: int) -> Weights:
        """Return the weights of one cluster's model."""
        return _of(weights, cluster)

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        return Clustered(
            [self.server_half.start(weights, row_ids) for _ in range(self.num_clusters)]
        )

    def before_round(
        self, tools: Tools, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Mapping[int, Any]]:
        if self.num_clusters == 1:
            return state, {int(client): 0 for client in cohort}
        losses = [
            tools.train_losses(self.model(state.weights, cluster), cohort)
            for cluster in range(self.num_clusters)
        ]
        return state, {
            client: int(np.argmin([found[client] for found in losses])) for client in losses[0]
        }

    def start_of(self, visit: Visit) -> ClientStart:
        return ClientStart(
            own_weights(self.model(visit.state.weights, visit.measured), visit.row_ids)
        )

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, Arrays | None]:
        return replace(update, measured=visit.measured), {"cluster": np.array(visit.measured)}

    def apply(self, state: ServerState, total: Any) -> ServerState:
        weights: Weights = {}
        slots: dict[str, Any] = {}
        for cluster, part in enumerate(total.parts):
            own = ServerState(
                self.model(state.weights, cluster), _of(state.optimizer, cluster), state.round_num
            )
            if len(part):
                own = self.server_half.apply(own, part)
            weights |= _named(own.weights, cluster)
            slots |= _named(own.optimizer, cluster)
        return ServerState(weights, slots, state.round_num + 1)

    def model_of(self, weights: Weights, client: int, kept: Arrays | None) -> PersonalModel:
        return PersonalModel(self.model(weights, 0 if kept is None else int(kept["cluster"])))


class Clustered:
    """One Total for each cluster; an update's `measured` is its cluster.

    Args:
        parts: the Totals.
    """

    def __init__(self, parts: list[Total]) -> None:
        self.parts = parts

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def add(self, update: ClientUpdate) -> None:
        """Add one ClientUpdate."""
        self.parts[update.measured].add(update)

    def merge(self, other: "Clustered") -> None:
        """Add the Totals of a part of the cohort."""
        for part, more in zip(self.parts, other.parts, strict=True):
            part.merge(more)


def _named(by_name: Mapping[str, Any], cluster: int) -> dict[str, Any]:
    """Return a cluster's weights or slots as a ServerState names them; cluster 0's as they are."""
    return {f"cluster_{cluster}.{n}" if cluster else n: value for n, value in by_name.items()}


def _of(by_name: Mapping[str, Any], cluster: int) -> dict[str, Any]:
    """The inverse of `_named`: what belongs to one cluster."""
    start = f"cluster_{cluster}." if cluster else ""
    return {
        name.removeprefix(start): value
        for name, value in by_name.items()
        if (name.startswith(start) if cluster else not name.startswith("cluster_"))
    }
