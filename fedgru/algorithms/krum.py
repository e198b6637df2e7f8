"""Multi-Krum (Blanchard et al. 2017): the clients that lie closest together."""

from collections.abc import Sequence

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.fed_avg import ClientUpdate, UpdateSum
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import ListMean, UpdateList, squared_distances
from fedgru.core.types import Doubles, Ints, Weights


class Krum(ListMean):
    """Multi-Krum: the weighted mean of the clients whose updates lie closest together.

    With n clients, of which f are assumed malicious, a client's score is the sum of its squared
    distances to its n - f - 2 nearest other clients,

        s(i) = sum over j near i of ||x_i - x_j||^2,

    and the n - f clients with the lowest scores stay. x is the whole update: it is zero in the
    table rows that a client does not own, as it would be if all clients sent all weights. So a
    client cannot hide an attack in its rows, where distances between dense weights alone do not
    see it; but a client that moves many rows lies farther from everybody.

    Args:
        server_optimizer: of `server_optimizers`.
        liar_share: f / n, rounded up; less if n < 2 * f + 3. 0 is the plain mean.
        client_rule: ClientRule.
        owners: whether rows are averaged over their owners.

    Source: Blanchard et al. 2017 (arXiv:1703.02757), section 4 and its multi-Krum. There those who
        stay count equally, here by their examples.
    """

    name = "krum"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        liar_share: float,
        client_rule: ClientRule = DEFAULT_RULE,
        owners: bool = True,
    ) -> None:
        super().__init__(server_optimizer, client_rule, owners)
        self.liar_share = liar_share

    def mean_update(self, total: UpdateList) -> Weights:
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = total.in_order
        kept = UpdateSum(total.weights)
        for place in self.choose(updates):
            kept.add(updates[place])
        return super().mean_update(kept)

    def choose(self, updates: Sequence[ClientUpdate]) -> Ints:
        """Return the indices of the updates that stay, int, ascending; all of fewer than 4."""
        num = len(updates)
        num_liars = min(int(np.ceil(self.liar_share * num)), (num - 3) // 2)
        if num_liars < 1:
            return np.arange(num)
        scores = krum_scores(squared_distances(updates), num_liars)
        return np.sort(np.argsort(scores, kind="stable")[: num - num_liars])


def krum_scores(distances: Doubles, num_liars: int) -> Doubles:
    """Return s(i), float64 [num_clients]: the sum of distances to the n - f - 2 nearest others.

    At least the nearest one counts.

    Args:
        distances: float64 [num_clients, num_clients], squared.
        num_liars: f.

    >>> points = np.array([0.0, 1.0, 3.0, 7.0])
    >>> krum_scores((points[:, None] - points) ** 2, 0)
    array([10.,  5., 13., 52.])
    """
    others = distances.copy()
    np.fill_diagonal(others, np.inf)
    num_near = max(len(distances) - num_liars - 2, 1)
    return np.sort(others, axis=1)[:, :num_near].sum(axis=1)
