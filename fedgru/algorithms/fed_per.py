"""FedPer (Arivazhagan et al. 2019): some weights stay on the client."""

from collections.abc import Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Any, ClassVar

import numpy as np

from fedgru.algorithms.client_start import ClientStart, own_weights
from fedgru.algorithms.fed_avg import ClientUpdate, FedAvg, ServerState
from fedgru.algorithms.per_client import (
    Arrays,
    PerClient,
    PersonalModel,
    Visit,
    as_own,
    with_arrays,
)
from fedgru.algorithms.sent import Sent
from fedgru.core.errors import ConfigError
from fedgru.core.types import Weights


class FedPer(PerClient):
    """Base weights are averaged; the personal ones are trained by their client and stay there.

        y <- local steps from (base, own personal weights); the client keeps y's personal part
        and sends the update of the base.

    A client that has not trained yet has the personal weights that every client starts with. With
    no personal weights this is the server half to the bit.

    Args:
        server_half: FedAvg or FedSubAvg.
        personal_weights: names of weights, see `fedgru.models.gru`.

    Source: Arivazhagan et al. 2019 (arXiv:1912.00818), Algorithms 1 and 2: there all clients train
        in each round, and the personal weights are the last layers.
    """

    name: ClassVar[str] = "fed_per"
    keeps: ClassVar[bool] = True
    personal: ClassVar[bool] = True

    def __init__(self, server_half: FedAvg, personal_weights: Sequence[str]) -> None:
        super().__init__(server_half, replace(server_half.client_rule, by_client=True))
        self.personal_weights = tuple(personal_weights)
        self.sent = Sent(stays=self.personal_weights)

    def init(self, weights: Weights) -> ServerState:
        unknown = [name for name in self.personal_weights if name not in weights]
        if unknown:
            near = get_close_matches(unknown[0], list(weights), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"`personal_weights` has {unknown[0]!r}, which the model has not.{hint} Its "
                f"weights: {', '.join(weights)}."
            )
        return super().init(weights)

    def start_of(self, visit: Visit) -> ClientStart:
        return ClientStart(own_weights(visit.state.weights, visit.row_ids) | self._own(visit.kept))

    def _own(self, kept: Arrays | None) -> Weights:
        return {} if kept is None else {name: kept[name] for name in self.personal_weights}

    def finish(
        self, visit: Visit, start: ClientStart | None, update: ClientUpdate
    ) -> tuple[ClientUpdate, Arrays | None]:
        assert start is not None, "the rule is by client"
        arrays = as_own(update)
        personal = self.personal_weights
        kept: dict[str, Any] = {name: start.weights[name] + arrays[name] for name in personal}
        kept["row_ids"] = visit.row_ids
        return with_arrays(update, arrays | {n: np.zeros_like(arrays[n]) for n in personal}), kept

    def model_of(self, weights: Weights, client: int, kept: Arrays | None) -> PersonalModel:
        own = self._own(kept)
        rows = own.pop("rows", None)
        row_ids = kept["row_ids"] if kept is not None and rows is not None else None
        return PersonalModel({**weights, **own}, row_ids, rows)
