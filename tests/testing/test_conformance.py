"""fedgru.testing: what is right passes, and each planted fault is named."""

from dataclasses import replace

import numpy as np
import pytest

from fedgru.algorithms import AlgorithmInfo, PerClient, registry
from fedgru.core.errors import ConfigError
from fedgru.testing import check_algorithm, closeness
from tests.conftest import slow_but

FIRST = [
    "in three rounds no ServerState is changed in place, and names and shapes stay",
    "an update that cannot be used (not finite) has no effect",
    "the order of the cohort changes nothing but the rounding",
    "a run that is stopped and resumed ends in the same bytes",
]
BOTH_LOOPS = [
    "jax (local steps in C) equals reference",
    "jax (local steps by XLA) equals reference",
]


@pytest.mark.parametrize("name", slow_but(registry.BUILT_IN, "ditto"))
def test_fedgrus_own_pass(name):
    found = check_algorithm(name)
    assert found[:4] == FIRST
    assert found[4:] == BOTH_LOOPS or not registry.BUILT_IN[name].in_c


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"prox_mu": 3.0},
        {"mean": "owners", "robust": "median"},
        {"server_optimizer": "adam", "server_lr": 0.001},
        {"mean": "owners", "server_optimizer": "momentum", "server_lr": 0.5},
    ],
)
def test_other_settings(settings):
    assert check_algorithm("fed-avg", **settings) == [*FIRST, *BOTH_LOOPS]


class Counts(PerClient):
    """Right: a client keeps how often its update was used, and sends less each time."""

    name = "counts"
    keeps = True

    def __init__(self, settings, half):
        super().__init__(half)

    def finish(self, visit, start, update):
        before = 0 if visit.kept is None else int(visit.kept["num_rounds"])
        factor = np.float32(1 / (1 + before))
        sent = replace(
            update,
            dense={name: factor * array for name, array in update.dense.items()},
            row_update=factor * update.row_update,
        )
        return sent, {"num_rounds": np.array(before + 1)}


@pytest.mark.slow
def test_ones_own_passes_as_a_class_and_as_an_info():
    assert check_algorithm(Counts) == [*FIRST, *BOTH_LOOPS]
    info = AlgorithmInfo("counts", "", "", Counts, engines=("jax",))
    assert check_algorithm(info, dropout=0.3) == [
        *FIRST,
        "jax (local steps in C) equals jax (local steps by XLA)",
    ]


class ChangesInPlace(Counts):
    def apply(self, state, total):
        state.weights["bias"] *= np.float32(0.5)
        return super().apply(state, total)


class ForgetsTheRound(Counts):
    def apply(self, state, total):
        return replace(super().apply(state, total), round_num=state.round_num)


class AddsASlot(Counts):
    def apply(self, state, total):
        after = super().apply(state, total)
        return replace(after, optimizer={**after.optimizer, "extra": 1})


class ComputesInDoubles(Counts):
    def apply(self, state, total):
        after = super().apply(state, total)
        bias = after.weights["bias"].astype(np.float64)
        return replace(after, weights={**after.weights, "bias": bias})


class MendsNaN(Counts):
    def finish(self, visit, start, update):
        sent, kept = super().finish(visit, start, update)
        dense = {name: np.nan_to_num(array) for name, array in sent.dense.items()}
        return replace(sent, dense=dense, row_update=np.nan_to_num(sent.row_update)), kept


class KeepsAtOnce(Counts):
    """Keeps the update itself, before it is known whether it can be used."""

    def before_round(self, tools, state, cohort):
        self.tools = tools
        return state, {}

    def finish(self, visit, start, update):
        self.tools.keep(visit.client, {"num_rounds": np.array(1), "bias": update.dense["bias"]})
        return update, None


class KeepsASign(KeepsAtOnce):
    """As before, but what it keeps is finite."""

    def finish(self, visit, start, update):
        is_up = update.dense["bias"].sum() > 0
        self.tools.keep(visit.client, {"num_rounds": np.array(int(is_up))})
        return update, None


class TheFirstCountsMore(Counts):
    def finish(self, visit, start, update):
        sent, kept = super().finish(visit, start, update)
        place = self.__dict__.setdefault("num_finished", 0)
        self.num_finished += 1
        return replace(sent, num_examples=1 + update.num_examples // (1 + place)), kept


class Remembers(Counts):
    """Keeps the last round's weights in itself, not in the ServerState."""

    def apply(self, state, total):
        after = super().apply(state, total)
        last = self.__dict__.get("last", state.weights)
        self.last = after.weights
        mixed = {n: (w + last[n]) / np.float32(2) for n, w in after.weights.items()}
        return replace(after, weights=mixed)


class DrawsAnyhow(Counts):
    def apply(self, state, total):
        after = super().apply(state, total)
        noise = np.float32(0.01 * np.random.default_rng().standard_normal())
        return replace(after, weights={n: w + noise for n, w in after.weights.items()})


def other_in_keras(weight, received):
    """A correction that another kind of array gives another value of."""
    return (0.1 if "jax" in type(weight).__module__ else 0.2) * weight


class DiffersByEngine(Counts):
    def __init__(self, settings, half):
        PerClient.__init__(self, half, replace(half.client_rule, correction=other_in_keras))


class ReceivesOtherNames(Counts):
    def received(self, weights):
        return {name: array for name, array in weights.items() if name != "bias"}


@pytest.mark.parametrize(
    ("fault", "sentence"),
    [
        (
            ChangesInPlace,
            "a round changed the ServerState that it began with, in place: weights bias differs. "
            "Make new arrays.",
        ),
        (ForgetsTheRound, "after round 1 the ServerState has round_num 0."),
        (
            AddsASlot,
            "the ServerState has no slot extra before round 1. Its names must stay the same.",
        ),
        (ComputesInDoubles, "weights bias are float64 after a round, expected float32."),
        (
            ReceivesOtherNames,
            "before round 1 clients do not receive the model's weights: bias is only in one of "
            "them.",
        ),
        (
            MendsNaN,
            "an update of NaN is counted in the mean: finish must send it as it is.",
        ),
        (
            KeepsAtOnce,
            "what client 2 keeps as bias is not finite: it comes from an update that is not used.",
        ),
        (
            KeepsASign,
            "an update that is not used has an effect: what client 2 keeps as num_rounds differs "
            "with its content. Return what a client keeps from finish; it is kept if the update is "
            "used.",
        ),
        (TheFirstCountsMore, "the order of the cohort matters after 2 rounds: weights "),
        (
            Remembers,
            "a run that is stopped after round 2 and resumed ends in another metrics.csv: what "
            "rounds depend on must be in the ServerState, in what clients keep, or drawn by the "
            "seed.",
        ),
        (
            DrawsAnyhow,
            "the same rounds with the same seed end in other numbers: weights rows differs. Draw "
            "by the seed of the settings and the round number.",
        ),
        pytest.param(
            DiffersByEngine,
            "jax (local steps by XLA: the C code cannot be used, it knows no correction of the "
            "gradient but FedProx's) and reference differ after 2 rounds: weights ",
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_planted_fault_is_named(fault, sentence):
    with pytest.raises(AssertionError) as error:
        check_algorithm(fault)
    text = str(error.value)
    assert text.startswith(f"{fault.__name__}: {sentence}")
    if sentence.endswith("."):
        assert text == f"{fault.__name__}: {sentence}"
    else:
        assert text.endswith(" times the tolerance.")


def test_what_cannot_be_checked():
    with pytest.raises(ConfigError, match="Did you mean ditto?"):
        check_algorithm("dito")
    with pytest.raises(ConfigError, match="`algorithm` is given twice"):
        check_algorithm(Counts, **{"algorithm": "ditto"})
    with pytest.raises(ConfigError, match="`fairness_q` has no effect with `algorithm` ditto"):
        check_algorithm("ditto", fairness_q=1.0)


def test_gaps_by_hand():
    # 0.001 of an allowed 1e-4 * 2 + 2e-6; NaN is not lost behind a larger gap
    assert closeness.gap([2.001], [2.0]) == pytest.approx(0.001 / 0.000202)
    assert closeness.gap([1e-6], [0.0]) == pytest.approx(0.5)
    found = {"a": np.array([np.nan]), "b": np.array([9.0])}
    assert np.isnan(closeness.largest_gap(found, {"a": np.zeros(1), "b": np.zeros(1)}))


def test_differences_in_words():
    zero, one = {"a": np.zeros(2)}, {"a": np.ones(2)}
    differ = closeness.first_difference
    assert differ(zero, zero) is None and differ(zero, {"a": np.full(2, 1e-6)}) is None
    assert differ(zero, {"a": np.full(2, 1e-6)}, exactly=True) == "a differs"
    assert differ(zero, one) == "a differs by 9.8e+03 times the tolerance"
    assert differ({"a": np.full(2, np.nan)}, one) == "a differs by nan times the tolerance"
    assert differ(zero, {}) == "a is only in one of them" == differ({}, zero)
    assert differ(zero, {"a": np.zeros(3)}) == "a is float64 [2], not float64 [3]"
    assert differ({"a": 1}, {"a": 2}) == "a differs"
    assert closeness.metric_difference({"x": float("nan")}, {"x": float("nan")}) is None
    assert closeness.metric_difference({}, {"x": 1.0}) == "x is None, not 1.0"
    assert closeness.metric_difference({"x": 1.0}, {"x": None}) == "x is 1.0, not None"
