"""Inner-product manipulation (Xie et al. 2020): against what the honest clients send."""

from collections.abc import Sequence
from dataclasses import replace

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.core.types import Weights


def inner_product(
    true: Sequence[ClientUpdate], honest: Weights, epsilon: float
) -> list[ClientUpdate]:
    """Return what liars send who know the honest updates: -epsilon * their mean.

    If a robust mean keeps enough of it, its inner product with the honest mean is negative. A small
    epsilon lies near the honest updates, a large one turns the plain mean around: with n clients
    and m liars if epsilon > (n - m) / m.

    Args:
        true: the liars' ClientUpdates, which say the rows that they own: they send no others.
        honest: name -> float32 array, what the plain mean makes of the honest updates.
        epsilon: above 0.

    Source: Xie et al. 2020 (arXiv:1903.03936), section 4: there clients count equally, here as the
        plain mean of the run counts them.
    """
    dense = {name: -epsilon * array for name, array in honest.items() if name != "rows"}
    return [
        replace(update, dense=dense, row_update=-epsilon * honest["rows"][update.row_ids])
        for update in true
    ]
