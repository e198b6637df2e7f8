"""RFA (Pillutla et al. 2022): the geometric median of the updates."""

from collections.abc import Sequence

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import ListMean, UpdateList, WeightedSum, inner_products
from fedgru.core.types import Doubles, Weights

NU = 1e-6
ITERATIONS = 3


class GeometricMedian(ListMean):
    """The point v with the smallest sum of n_k * ||v - x_k||, by the smoothed Weiszfeld algorithm.

    x_k is client k's whole update, zero in the table rows that it does not own, and n_k its
    examples. From the weighted mean v, each iteration computes

        beta_k = n_k / max(nu, ||v - x_k||),    v = sum of beta_k * x_k / sum of beta_k

    The last beta_k are the weights of the mean. Where rows are averaged over their owners, a row is
    divided by the sum of its owners' beta_k. A nu above all distances is the plain mean to the bit.

    Args:
        server_optimizer: of `server_optimizers`.
        client_rule: ClientRule.
        owners: whether rows are averaged over their owners.
        nu: smallest distance that counts.
        iterations: how many; 0 is the plain mean.

    Source: Pillutla et al. 2022 (arXiv:1912.13445), Algorithm 2, and nu. Clients count by their
        examples, as there: it withstands liars that claim less than half of all examples.
    """

    name = "geometric_median"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        client_rule: ClientRule = DEFAULT_RULE,
        owners: bool = True,
        nu: float = NU,
        iterations: int = ITERATIONS,
    ) -> None:
        super().__init__(server_optimizer, client_rule, owners)
        self.nu, self.iterations = nu, iterations

    def mean_update(self, total: UpdateList) -> Weights:
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = total.in_order
        weighted = WeightedSum(total.weights)
        for update, factor in zip(updates, self.factors(updates).tolist(), strict=True):
            weighted.add(update, factor)
        return super().mean_update(weighted)

    def factors(self, updates: Sequence[ClientUpdate]) -> Doubles:
        """Return beta_k / n_k, float64 [num_updates], divided by the largest one."""
        products = inner_products(updates)  # of which all v and distances are sums
        examples = np.array([update.num_examples for update in updates], np.float64)
        factors = np.ones(len(updates))
        for _ in range(self.iterations):
            shares = examples * factors / (examples @ factors)
            with_v = products @ shares
            squares = shares @ with_v - 2 * with_v + np.diagonal(products)
            distances = np.maximum(np.sqrt(np.maximum(squares, 0)), self.nu)
            factors = distances.min() / distances
        return factors
