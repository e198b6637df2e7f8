"""Federated submodel averaging (Ding et al. 2022): each row is averaged over its owners."""

import numpy as np

from fedgru.algorithms.fed_avg import FedAvg, UpdateSum
from fedgru.core.types import Floats


class FedSubAvg(FedAvg):
    """FedAvg, but a table row is averaged over the clients of the cohort that own it.

    Under the plain mean, if one client of a hundred visits a venue, the venue's row moves only a
    hundredth of its update in each round.

    Source: Ding et al. 2022 (arXiv:2109.07704), Algorithm 1. There clients count equally and a
        row's mean is corrected by the share of owners in the population; here clients count by
        their examples, as in FedAvg, and owners are those in the cohort.
    """

    name = "fed_sub_avg"
    over_owners = True

    def mean_rows(self, total: UpdateSum) -> Floats:
        """Average each row over its owners; a row without owners does not change."""
        divisors = np.where(total.row_divisors, total.row_divisors, 1).astype(np.float32)
        return total.rows / divisors[:, None]
