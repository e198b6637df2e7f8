"""How a run is made private: what settings and the number of clients amount to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedgru.config.settings import Settings
from fedgru.core.errors import ConfigError
from fedgru.privacy import accounting
from fedgru.privacy.accounting import DELTA, Releases, Sampling

MOST_BANDS = 16
COUNT_SHARE = 20  # Andrew et al. 2021: deviation of the count's noise is the cohort's size / 20
CLIP_STEP = 0.2  # their learning rate of the adaptive clip


@dataclass(frozen=True)
class Plan:
    """What is clipped, drawn and noised in a private run; it does not change in the run.

    Attributes:
        clip: the largest L2 norm of an update; with `quantile` that of round 1.
        noise: standard deviation of a round's noise, in units of the clip: of the noise that the
            accountant counts, see `update_noise`.
        delta: of the guarantee.
        population: how many clients can be drawn.
        cohort: clients in a round; with sampling "poisson" on average. Sums are divided by it.
        sampling: see `accounting.Releases`.
        bands: rounds over which noise is correlated; 1 for independent noise.
        separation: with sampling "blocks", the number of cohorts that take turns; else 1.
        quantile: share of updates that the clip is adapted to; None for a clip that stays.
        setup_noise: noise of the shared frequencies, and of all rounds of the kernel prior
            together; None if nothing is learnt before round 1.
        has_kernel: whether a kernel prior is learnt with it.
        seed: of the noise, in this simulation.
    """

    clip: float
    noise: float
    delta: float
    population: int
    cohort: float
    sampling: Sampling
    bands: int = 1
    separation: int = 1
    quantile: float | None = None
    setup_noise: float | None = None
    has_kernel: bool = False
    seed: int = 0

    @property
    def rate(self) -> float:
        """The share of the clients that a round has, on average."""
        return self.cohort / self.population

    @property
    def releases(self) -> Releases:
        """The Releases that the accountant counts."""
        setup = () if self.setup_noise is None else (self.setup_noise,) * (1 + self.has_kernel)
        is_fixed = self.sampling == "fixed"
        return Releases(
            noise=self.noise,
            sampling=self.sampling,
            rate=self.rate if self.sampling == "poisson" else 1.0,
            population=self.population if is_fixed else 1,
            cohort=round(self.cohort) if is_fixed else 1,
            bands=self.bands,
            separation=self.separation,
            setup=setup,
        )

    def epsilon(self, rounds: int) -> float:
        """Return the epsilon after this many rounds."""
        return accounting.epsilon(self.releases, rounds, self.delta)

    @property
    def count_noise(self) -> float:
        """Standard deviation of the noise in the number of short updates, for an adaptive clip."""
        return self.cohort / COUNT_SHARE

    @property
    def update_noise(self) -> float:
        """Standard deviation of the noise in a round's sum, in units of the clip.

        With an adaptive clip it is more than `noise`, so that sum and count together cost as much
        privacy as a sum with `noise` alone.

        Source: Andrew et al. 2021 (arXiv:1905.03871), Theorem 1: z_delta = (z^-2 - (2 sigma_b)^-2)
            ^ (-1/2).
        """
        if self.quantile is None:
            return self.noise
        return (self.noise**-2 - (2 * self.count_noise) ** -2) ** -0.5

    def adapt(self, clip: float, noisy_count: float) -> float:
        """Return the clip of the next round.

        Args:
            clip: that of this round.
            noisy_count: number of updates no longer than it, less half of the cohort, with noise.

        Source: as `update_noise`, Algorithm 1.
        """
        assert self.quantile is not None, "the clip stays"
        share = noisy_count / self.cohort + 0.5
        return clip * math.exp(-CLIP_STEP * (share - self.quantile))

    def to_dict(self) -> dict[str, Any]:
        """Return it as a dict that JSON can hold."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Plan:
        """The inverse of `to_dict`."""
        return cls(**values)

    def __str__(self) -> str:
        """The line in the log."""
        drawn = {
            "poisson": f"each of {self.population:,} clients with probability {self.rate:.4g}",
            "fixed": f"{self.cohort:g} of {self.population:,} clients, drawn",
            "all": f"all {self.population:,} clients",
            "blocks": f"{self.separation} cohorts of {self.population:,} clients in turn",
        }[self.sampling]
        adapted = "" if self.quantile is None else f" at first, adapted to {self.quantile:g}"
        correlated = "" if self.bands == 1 else f", correlated over {self.bands} rounds"
        return (
            f"differential privacy: updates are clipped to norm {self.clip:g}{adapted}, noise is "
            f"{self.noise:.4g} times that{correlated}; in a round {drawn}; delta {self.delta:g}. "
            "The noise of this simulation is drawn by its seed, so whoever knows the seed can "
            "remove it"
        )


def make_plan(settings: Settings, num_clients: int) -> Plan:
    """Return the Plan of private Settings; with `dp_epsilon` it finds the noise, in seconds.

    Args:
        settings: Settings, with `dp_clip`.
        num_clients: how many clients can be drawn.

    Raises:
        ConfigError: if they do not go with this number of clients.
    """
    accounting.library()  # its absence is reported before anything is made
    given, loop = settings.privacy, settings.loop
    assert given.dp_clip is not None, "the run is not private"
    cohort = num_clients if loop.clients_per_round is None else loop.clients_per_round
    delta = DELTA if given.dp_delta is None else given.dp_delta
    if delta * num_clients >= 1:
        raise ConfigError(
            f"`dp_delta` is {delta:g}, expected less than 1 / {num_clients}, the number of "
            "clients: with that much, all data of one client may leak."
        )
    sampling: Sampling = "all"
    if given.dp_mechanism == "banded":
        sampling = "blocks"
    elif cohort < num_clients:
        sampling = "fixed" if given.dp_sampling == "fixed" else "poisson"
    plan = Plan(
        clip=given.dp_clip,
        noise=given.dp_noise or 1.0,
        delta=delta,
        population=num_clients,
        cohort=float(cohort),
        sampling=sampling,
        quantile=given.dp_adaptive_clip,
        setup_noise=given.dp_setup_noise,
        has_kernel=settings.inputs.prior == "kernel",
        seed=loop.seed,
    )
    if sampling == "blocks":
        plan = _in_turn(plan, given.dp_bands)
    if given.dp_epsilon is not None:
        noise = accounting.find_noise(
            lambda noise: replace(plan, noise=noise).releases, loop.rounds, delta, given.dp_epsilon
        )
        plan = replace(plan, noise=noise)
    if plan.quantile is not None and 2 * plan.count_noise <= plan.noise:
        raise ConfigError(
            f"`dp_adaptive_clip` needs more than {10 * plan.noise:.4g} clients in a round with "
            f"noise {plan.noise:.4g}: the count of short updates has noise, too. Leave it out."
        )
    return plan


def _in_turn(plan: Plan, bands: int | None) -> Plan:
    """Return a Plan whose cohorts take turns."""
    number = int(plan.population // plan.cohort)
    if number < 2:
        raise ConfigError(
            "`dp_mechanism` banded needs at least two cohorts that take turns: use a smaller "
            "`clients_per_round`."
        )
    bands = min(number, MOST_BANDS) if bands is None else bands
    if bands > number:
        raise ConfigError(
            f"`dp_bands` is {bands}, but {number} cohorts take turns: use {number} or fewer."
        )
    return replace(plan, cohort=plan.population / number, bands=bands, separation=number)
