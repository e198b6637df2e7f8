"""The robust means by name, for cohorts with malicious clients.

All but norm bounding need each update separately, so memory holds all updates of a cohort. If a
table row has only one or two owners, no rule can find out which client is malicious.
"""

from fedgru.algorithms import centred_clipping, geometric_median
from fedgru.algorithms.bulyan import Bulyan, num_liars
from fedgru.algorithms.centred_clipping import CentredClipping
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.coordinate_wise import Median, TrimmedMean
from fedgru.algorithms.fed_avg import FedAvg
from fedgru.algorithms.geometric_median import GeometricMedian
from fedgru.algorithms.krum import Krum
from fedgru.algorithms.norm_bounding import NormBounding
from fedgru.algorithms.server_optimizers import ServerOptimizer
from fedgru.config.settings import ServerSettings
from fedgru.core.errors import ConfigError

DEFAULT_LIAR_SHARE = 0.2


def make(server: ServerSettings, optimizer: ServerOptimizer, rule: ClientRule) -> FedAvg:
    """Return the robust mean that ServerSettings name; `robust` is not none."""
    share = DEFAULT_LIAR_SHARE if server.liar_share is None else server.liar_share
    owners, iterations = server.mean == "owners", server.robust_iterations
    match server.robust:
        case "median":
            return Median(optimizer, rule)
        case "trimmed-mean":
            return TrimmedMean(optimizer, share, rule)
        case "krum":
            return Krum(optimizer, share, rule, owners)
        case "bulyan":
            return Bulyan(optimizer, share, rule)
        case "geometric-median":
            return GeometricMedian(
                optimizer, rule, owners, iterations=iterations or geometric_median.ITERATIONS
            )
        case "centred-clipping" if server.clip_norm is not None:
            return CentredClipping(
                *(optimizer, server.clip_norm, rule, owners),
                iterations=iterations or centred_clipping.ITERATIONS,
            )
        case "norm-bounding" if server.clip_norm is not None:
            return NormBounding(optimizer, server.clip_norm, rule, owners)
    raise ValueError(f"no robust mean is made of {server}")


def check_cohort(server: ServerSettings, num_clients: int) -> None:
    """Refuse a robust mean for which a full cohort is too small.

    Raises:
        ConfigError: if bulyan has fewer than 4f + 3 clients.
    """
    if server.robust != "bulyan":
        return
    share = DEFAULT_LIAR_SHARE if server.liar_share is None else server.liar_share
    liars = num_liars(share, num_clients)
    if num_clients < 4 * liars + 3 and liars:
        raise ConfigError(
            f"`robust` bulyan against {liars} malicious clients (`liar_share` {share:g} of "
            f"{num_clients}) needs at least {4 * liars + 3} clients in a round. Use a smaller "
            "`liar_share`, or another `robust`."
        )
