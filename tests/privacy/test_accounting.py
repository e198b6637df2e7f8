"""Epsilon, against dp-accounting called by hand and against sums that need no library."""

import math

import dp_accounting
import numpy as np
import pytest
from dp_accounting import pld, rdp

from fedgru.privacy import correlated
from fedgru.privacy.accounting import Releases, epsilon, find_noise


def by_hand(*events, delta=1e-5):
    accountant = pld.PLDAccountant()
    for event in events:
        accountant.compose(event)
    return accountant.get_epsilon(delta)


def gaussian(noise, times=1):
    return dp_accounting.SelfComposedDpEvent(dp_accounting.GaussianDpEvent(noise), times)


def poisson(rate, noise, times):
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return dp_accounting.SelfComposedDpEvent(event, times)


CASES = [
    (Releases(10.0), 30, (gaussian(10.0, 30),)),
    (Releases(1.1), 1, (gaussian(1.1),)),
    (Releases(4.0, setup=(3.0, 3.0)), 8, (gaussian(4.0, 8), gaussian(3.0, 2))),
    (Releases(4.0, setup=(3.0,)), 0, (gaussian(3.0),)),
    (Releases(1.0, "poisson", 0.1), 80, (poisson(0.1, 1.0, 80),)),
    (Releases(0.7, "poisson", 0.02), 200, (poisson(0.02, 0.7, 200),)),
    (Releases(2.0, "poisson", 0.5), 10, (poisson(0.5, 2.0, 10),)),
    (Releases(1.0, "poisson", 0.1, setup=(5.0,)), 30, (poisson(0.1, 1.0, 30), gaussian(5.0))),
    # 30 rounds of 10 cohorts in turn: 3 whole columns of norm 1
    (Releases(4.0, "blocks", bands=8, separation=10), 30, (gaussian(4.0, 3),)),
    # bands of 1 are independent noise: 5 rounds of its own in 9 rounds
    (Releases(4.0, "blocks", bands=1, separation=2), 9, (gaussian(4.0, 5),)),
]


@pytest.mark.parametrize(("releases", "rounds", "events"), CASES)
def test_ten_settings_as_dp_accounting_called_by_hand(releases, rounds, events):
    assert epsilon(releases, rounds) == pytest.approx(by_hand(*events), abs=1e-4, rel=1e-4)


def test_a_fixed_size_is_accounted_for_by_replacement():
    event = dp_accounting.SampledWithoutReplacementDpEvent(
        1000, 20, dp_accounting.GaussianDpEvent(2.0)
    )
    accountant = rdp.RdpAccountant(
        neighboring_relation=dp_accounting.NeighboringRelation.REPLACE_ONE
    )
    accountant.compose(event, 30)
    releases = Releases(4.0, "fixed", population=1000, cohort=20)
    assert epsilon(releases, 30) == pytest.approx(accountant.get_epsilon(1e-5), rel=1e-9)


def test_a_figure_of_pfl_research():
    # PLDPrivacyAccountant of pfl 0.6.0: 80 compositions, probability 0.1, noise 1; 1000, 0.01, 0.76
    assert epsilon(Releases(1.0, "poisson", 0.1), 80) == pytest.approx(6.345619, rel=1e-4)
    assert epsilon(Releases(0.76, "poisson", 0.01), 1000) == pytest.approx(3.627689, rel=2e-4)


def test_the_gaussian_mechanism_by_its_formula():
    # Balle and Wang 2018, Theorem 8: delta(eps) with mu = sqrt(30) / 10
    mu, found = math.sqrt(30) / 10, epsilon(Releases(10.0), 30)

    def below(x):
        return (1 + math.erf(x / math.sqrt(2))) / 2

    delta = below(-found / mu + mu / 2) - math.exp(found) * below(-found / mu - mu / 2)
    assert delta == pytest.approx(1e-5, rel=1e-2)
    assert found == pytest.approx(2.207, abs=1e-3)  # zCDP gives 2.78


def test_half_the_noise_and_other_sampling_are_not_the_same_number():
    # so a run that forgets half of its noise, or draws in another way, states another epsilon
    right = epsilon(Releases(1.0, "poisson", 0.1), 30)
    assert epsilon(Releases(0.5, "poisson", 0.1), 30) > 2.5 * right
    assert epsilon(Releases(1.0), 30) > 2.5 * right


def test_nothing_released_costs_nothing():
    assert epsilon(Releases(1.0), 0) == 0.0


@pytest.mark.parametrize("target", [0.5, 8.0])
def test_the_noise_that_is_found_is_the_smallest(target):
    def with_noise(noise):
        return Releases(noise, "poisson", 0.1)

    noise = find_noise(with_noise, 30, 1e-5, target)
    assert epsilon(with_noise(noise), 30) <= target < epsilon(with_noise(noise * 0.995), 30)


def test_the_sensitivity_of_banded_noise_is_that_of_the_matrix():
    bands, separation, rounds = 3, 4, 10
    first = correlated.coefficients(bands)
    matrix = sum(c * np.eye(rounds, k=-i) for i, c in enumerate(first))
    assert np.linalg.norm(matrix[:, 0]) == pytest.approx(1.0)
    # a client with the same update of norm 1 in rounds 1, 5, 9
    longest = max(np.linalg.norm(matrix[:, s::separation].sum(axis=1)) for s in range(separation))
    assert correlated.sensitivity(bands, separation, rounds) == pytest.approx(longest)
