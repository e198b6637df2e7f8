"""ALIE, "a little is enough" (Baruch et al. 2019): liars that hide among the honest."""

from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.algorithms.update_list import rows_by_owners
from fedgru.core.types import Floats


def z_max(num_clients: int, num_liars: int) -> float:
    """Return by how many deviations liars can stray and still be nearer than enough honest ones.

    With n clients and m liars, s = floor(n / 2 + 1) - m honest clients are missing for a majority:

        z_max = quantile of the standard normal at (n - m - s) / (n - m)

    It is at least 0; a majority of liars counts as if one were missing.

    >>> round(z_max(20, 4), 4)  # s = 7: the quantile at 9 / 16
    0.1573
    >>> round(z_max(50, 24), 4)  # s = 2: the quantile at 24 / 26
    1.4261

    Source: Baruch et al. 2019 (arXiv:1902.06156), Algorithm 3, with the quantile among the honest.
    """
    num_honest = num_clients - num_liars
    if num_honest < 2:
        return 0.0  # nobody to hide among
    missing = max(num_clients // 2 + 1 - num_liars, 1)
    return max(NormalDist().inv_cdf((num_honest - missing) / num_honest), 0.0)


def alie(true: Sequence[ClientUpdate], z: float) -> list[ClientUpdate]:
    """Return what liars send who know each other's true updates.

    With the mean mu and the deviation sigma of each weight over the liars' true updates, all send

        mu - z * sigma

    of a table row each owner the same, with mu and sigma over the liars that own it.

    Args:
        true: the liars' ClientUpdates.
        z: not negative, see `z_max`.

    Source: Baruch et al. 2019 (arXiv:1902.06156), Algorithm 3: the liars know nothing of the honest
        ones. sigma divides by the number of liars.
    """
    dense = {name: _strayed(np.stack([u.dense[name] for u in true]), z) for name in true[0].dense}
    row_ids = np.unique(np.concatenate([update.row_ids for update in true]))
    rows = np.zeros((len(row_ids), true[0].row_update.shape[1]), np.float32)
    for ids, _, values in rows_by_owners(true):
        rows[np.searchsorted(row_ids, ids)] = _strayed(np.swapaxes(values, 0, 1), z)
    return [
        replace(u, dense=dense, row_update=rows[np.searchsorted(row_ids, u.row_ids)]) for u in true
    ]


def _strayed(values: Floats, z: float) -> Floats:
    """Return mu - z * sigma of float32 [num_liars, ...] over the liars."""
    return (values.mean(axis=0) - np.float32(z) * values.std(axis=0)).astype(np.float32)
