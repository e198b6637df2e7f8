"""Epsilon of what a run releases, by Google's dp-accounting. Its library is imported when asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from fedgru.core.errors import ConfigError, FedgruError
from fedgru.privacy import correlated

DELTA = 1e-5
LEAST_NOISE = 1.0 / 64  # far below any that protects
MOST_NOISE = 1e6
SEARCH_STEP = 1.002  # noise that is found is at most this factor too large
INTERVAL = 1e-3  # of privacy losses; a tenth changes epsilon by 2e-5, in ten times the time

Sampling = Literal["poisson", "fixed", "all", "blocks"]


@dataclass(frozen=True)
class Releases:
    """What the accountant needs to know of a run.

    Attributes:
        noise: standard deviation of the noise in a round's sum, in units of the largest norm of an
            update.
        sampling: how a round's clients are drawn. "poisson": each by itself, with probability
            `rate`; "fixed": `cohort` of `population`, without replacement; "all": everybody in
            each round; "blocks": everybody in turn, with correlated noise.
        rate: probability of a client to be in a round.
        population, cohort: numbers of clients, for sampling "fixed".
        bands, separation: see `correlated.sensitivity`, for sampling "blocks".
        setup: noise of each single release before round 1, in units of a client's largest
            contribution.
    """

    noise: float
    sampling: Sampling = "all"
    rate: float = 1.0
    population: int = 1
    cohort: int = 1
    bands: int = 1
    separation: int = 1
    setup: tuple[float, ...] = ()


@lru_cache(maxsize=4096)
def epsilon(releases: Releases, rounds: int, delta: float = DELTA) -> float:
    """Return the epsilon of the (epsilon, delta) guarantee for one client, for all it sends.

    Two data sets are neighbours if one has a client more; with sampling "fixed", where numbers of
    clients are known, if one client is replaced.

    Args:
        releases: Releases.
        rounds: how many were done.
        delta: float.

    Returns:
        float, never too small; too large by some 1e-4 of it after a thousand rounds. 0 if nothing
        was released.

    Source: PLD accounting (Koskela et al. 2020, arXiv:1906.03049) of dp-accounting; with sampling
        "fixed", which it does not know, its Renyi accounting (Wang et al. 2019, arXiv:1808.00087).
    """
    if not rounds and not releases.setup:
        return 0.0
    if releases.sampling == "fixed":
        return _epsilon_of_fixed(releases, rounds, delta)
    # Gaussian noise composes to Gaussian noise: the inverse squares add up
    precision = sum(noise**-2 for noise in releases.setup)
    if releases.sampling == "all":
        precision += rounds / releases.noise**2
    elif releases.sampling == "blocks" and rounds:
        most = correlated.sensitivity(releases.bands, releases.separation, rounds)
        precision += (most / releases.noise) ** 2
    drawn = releases.sampling == "poisson" and rounds
    largest = max(precision, releases.noise**-2 if drawn else 0.0)
    # with little noise losses are in the thousands; dp-accounting takes the exponential of this
    interval = min(INTERVAL * max(1.0, largest / 10), 100.0)
    parts = [_privacy_loss(precision**-0.5, 1.0, interval)] if precision else []
    if drawn:
        parts.append(_privacy_loss(releases.noise, releases.rate, interval).self_compose(rounds))
    whole = parts[0] if len(parts) == 1 else parts[0].compose(parts[1])
    return float(whole.get_epsilon_for_delta(delta))


@lru_cache(maxsize=64)
def _privacy_loss(noise: float, rate: float, interval: float) -> Any:
    """Return the privacy loss distribution of a Gaussian mechanism with Poisson sampling."""
    library()
    from dp_accounting.pld import privacy_loss_distribution

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, value_discretization_interval=interval, sampling_prob=rate
    )


def _epsilon_of_fixed(releases: Releases, rounds: int, delta: float) -> float:
    accounting = library()
    from dp_accounting import rdp

    # replacing a client moves a sum by twice what adding one does
    events = [accounting.GaussianDpEvent(noise / 2) for noise in releases.setup]
    if rounds:
        event = accounting.SampledWithoutReplacementDpEvent(
            releases.population, releases.cohort, accounting.GaussianDpEvent(releases.noise / 2)
        )
        events.append(accounting.SelfComposedDpEvent(event, rounds))
    relation = accounting.NeighboringRelation.REPLACE_ONE
    accountant = rdp.RdpAccountant(neighboring_relation=relation)
    for event in events:
        accountant.compose(event)
    return float(accountant.get_epsilon(delta))


def find_noise(
    with_noise: Callable[[float], Releases], rounds: int, delta: float, target: float
) -> float:
    """Return the smallest noise with at most some epsilon, to four digits, rounded up.

    Args:
        with_noise: returns the Releases of a run with this noise.
        rounds: of the whole run.
        delta: float.
        target: epsilon.

    Raises:
        ConfigError: if no noise is enough, as what is released before round 1 takes it all.
    """

    def is_enough(noise: float) -> bool:
        return epsilon(with_noise(noise), rounds, delta) <= target

    high = 1.0
    while not is_enough(high):
        high *= 2
        if high > MOST_NOISE:
            raise ConfigError(
                f"`dp_epsilon` {target:g} cannot be kept by any noise in the rounds: use a larger "
                "one, or a larger `dp_setup_noise`."
            )
    low = high / 2
    while low > LEAST_NOISE and is_enough(low):
        high, low = low, low / 2
    while high > low * SEARCH_STEP:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    digits = 3 - math.floor(math.log10(high))
    return math.ceil(high * 10**digits) / 10**digits


def library() -> Any:
    """Return the module dp_accounting."""
    try:
        import dp_accounting
    except ImportError as error:
        raise FedgruError(
            "differential privacy needs the package dp-accounting, which cannot be imported "
            f"({error}): install fedgru anew with `make env`, or run `pip install dp-accounting`."
        ) from error
    return dp_accounting
