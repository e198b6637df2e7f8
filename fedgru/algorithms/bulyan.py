"""Bulyan (El Mhamdi et al. 2018): Krum chooses, then the values around each median count."""

import logging
from functools import partial

import numpy as np

from fedgru.algorithms.client_rule import DEFAULT_RULE, ClientRule
from fedgru.algorithms.coordinate_wise import CoordinateWise, combine, median_near_zero
from fedgru.algorithms.krum import krum_scores
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.algorithms.update_list import UpdateList, squared_distances
from fedgru.core.types import Doubles, Floats, Ints, Weights

logger = logging.getLogger(__name__)


class Bulyan(CoordinateWise):
    """Two steps, so that one coordinate far out cannot hide in an update that Krum takes.

    With n clients, of which f are assumed malicious:

    1. The client with the lowest Krum score among those that are left is chosen and taken out,
       until theta = n - 2f are chosen. Krum compares whole updates, see `Krum`.
    2. Each coordinate is the mean of the theta - 2f chosen values nearest to their median. A table
       row with k chosen owners is the mean of the k - 2 * ceil(f * k / theta) nearest ones; if that
       leaves nobody, it is the median nearest to zero.

    Clients count equally: a malicious one could claim any number of examples. f = 0 is the trimmed
    mean that cuts nothing, to the bit.

    Args:
        server_optimizer: of `server_optimizers`.
        liar_share: f / n, rounded up. A round with fewer than 4f + 3 updates takes the largest f
            that it has enough for, and logs a warning.
        client_rule: ClientRule.

    Source: El Mhamdi et al. 2018 (arXiv:1802.07927), section 4. Towards the end of step 1 too few
        clients are left for Krum's n - f - 2 nearest ones: at least the nearest one counts.
    """

    name = "bulyan"

    def __init__(
        self,
        server_optimizer: ServerOptimizer,
        liar_share: float,
        client_rule: ClientRule = DEFAULT_RULE,
    ) -> None:
        super().__init__(server_optimizer, client_rule)
        self.liar_share = liar_share

    def mean_update(self, total: UpdateList) -> Weights:
        """Return name -> float32 array, the shapes of the weights; see FedAvg.mean_update."""
        updates = total.in_order
        wanted, most = num_liars(self.liar_share, len(updates)), max((len(updates) - 3) // 4, 0)
        if wanted > most:
            logger.warning(
                "robust bulyan: %d updates are enough against %d malicious clients, not against "
                "the %d that `liar_share` %g asks for",
                *(len(updates), most, wanted, self.liar_share),
            )
        liars = min(wanted, most)
        chosen = [updates[place] for place in choose(squared_distances(updates), liars)]
        middle = partial(around_the_median, num_liars=liars, num_chosen=len(chosen))
        return combine(chosen, total.weights["rows"], middle)


def num_liars(liar_share: float, num_clients: int) -> int:
    """Return f: how many of the clients a share is, rounded up."""
    return int(np.ceil(liar_share * num_clients))


def choose(distances: Doubles, num_liars: int) -> Ints:
    """Return the indices of the n - 2f clients of step 1, int, ascending.

    Args:
        distances: float64 [num_clients, num_clients], squared.
        num_liars: f.

    >>> points = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 50.0])  # chosen: 2, 1, 4, 0, 3
    >>> choose((points[:, None] - points) ** 2, 1)
    array([0, 1, 2, 3, 4])
    """
    left = np.arange(len(distances))
    chosen = []
    for _ in range(len(distances) - 2 * num_liars):
        best = int(np.argmin(krum_scores(distances[np.ix_(left, left)], num_liars)))
        chosen.append(left[best])
        left = np.delete(left, best)
    return np.sort(chosen)


def around_the_median(values: Floats, num_liars: int, num_chosen: int) -> Floats:
    """Return the mean of the values nearest to the median, of each coordinate; see Bulyan.

    Args:
        values: float32 [k, ...], of k of the chosen clients.
        num_liars, num_chosen: f and theta.
    """
    num, ordered = len(values), np.sort(values, axis=0)
    num_kept = num - 2 * -(-num_liars * num // num_chosen)
    middle = median_near_zero(ordered)
    if num_kept <= 0:
        return middle
    # in order, the nearest ones are a window: the one that reaches least far from the median
    start = np.zeros(middle.shape, np.int64)
    reach = np.full(middle.shape, np.inf)
    for first in range(num - num_kept + 1):
        far = np.maximum(middle - ordered[first], ordered[first + num_kept - 1] - middle)
        start[far < reach] = first
        reach = np.minimum(reach, far)
    total = np.zeros_like(middle)
    for place in range(num_kept):
        total += np.take_along_axis(ordered, (start + place)[None], axis=0)[0]
    return np.divide(total, num_kept, dtype=np.float32)
