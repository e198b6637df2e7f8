"""Norm bounding (Sun et al. 2019): a client cannot count by the size of its update."""

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, Total, UpdateSum
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import EitherMean, norm
from fedgru.core.types import AnyInts, Weights


class NormBounding(EitherMean):
    """The weighted mean of updates that are scaled down to a norm of at most M.

    With client k's share of the examples p_k and its whole update x_k, rows included,

        mean update = sum of p_k * x_k / max(1, ||x_k|| / M)

    It is a running sum: memory does not grow with the cohort. If no update is longer than M it is
    the plain mean to the bit.

    Args:
        server_optimizer: of `server_optimizers`.
        bound: M.
        client_rule: ClientRule.
        owners: whether rows are averaged over their owners.

    Source: Sun et al. 2019 (arXiv:1911.07963), section 5, norm thresholding of updates.
    """

    name = "norm_bounding"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        bound: float,
        client_rule: ClientRule = DEFAULT_RULE,
        owners: bool = True,
    ) -> None:
        super().__init__(server_optimizer, client_rule, owners)
        self.bound = bound

    def start(self, weights: Weights, row_ids: AnyInts | None = None) -> Total:
        return BoundedSum(weights, row_ids, self.bound)


class BoundedSum(UpdateSum):
    """An UpdateSum of updates that are scaled down to a norm.

    Args:
        weights, row_ids: as for UpdateSum.
        bound: the norm.
    """

    def __init__(
        self, weights: Weights, row_ids: AnyInts | None = None, bound: float = np.inf
    ) -> None:
        super().__init__(weights, row_ids)
        self._bound = bound

    def add(self, update: ClientUpdate, factor: float = 1.0) -> None:
        """See UpdateSum.add."""
        length = norm(update)
        if length > self._bound:
            factor *= self._bound / length
        super().add(update, factor)
