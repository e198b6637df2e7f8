"""Whether a result beats the best counting baseline, in sentences: the one place that makes them.

The baseline is the one with the highest acc@1 on validation, the same for all runs shown together
(`best_counting`). A difference is paired by client, its interval a 95 % bootstrap over clients.
What decides is acc@1; the loss, in which lower is better, stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

POINT = 0.01  # of acc@1
BEATS, WORSE, NOT_SIGNIFICANT = "beats", "worse", "not significant"
NO_INTERVAL, ITSELF, NOT_KNOWN = "no interval", "itself", "not known"


@dataclass(frozen=True)
class Gain:
    """A difference to a baseline on the same targets.

    Attributes:
        difference: the result's value less the baseline's.
        interval: its 95 % interval over clients; None if there is none.
    """

    difference: float
    interval: tuple[float, float] | None

    @property
    def is_significant(self) -> bool:
        """Whether zero lies outside the interval."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Standing:
    """What a verdict is about.

    Attributes:
        baseline: name of the best counting baseline; None if none was scored on validation.
        accuracy: Gain in acc@1; None without a baseline.
        loss: Gain in loss; None where one of the two has none.
        targets, clients, seeds: what the numbers rest on.
        is_baseline: whether the result is that of this baseline itself.
        is_own_prior: whether the baseline is the prior that the network starts from.
    """

    baseline: str | None
    accuracy: Gain | None
    loss: Gain | None
    targets: int
    clients: int
    seeds: int = 1
    is_baseline: bool = False
    is_own_prior: bool = False


@dataclass(frozen=True)
class Verdict:
    """What is said of a result.

    Attributes:
        outcome: BEATS, WORSE, NOT_SIGNIFICANT, NO_INTERVAL (one client), ITSELF (the best counting
            baseline) or NOT_KNOWN (no counting on validation).
        headline: a sentence.
        more: sentences: on the loss, on what the numbers rest on.
        baseline: name of the baseline, or None.
    """

    outcome: str
    headline: str
    more: tuple[str, ...]
    baseline: str | None

    @property
    def text(self) -> str:
        return " ".join([self.headline, *self.more])

    def to_dict(self) -> dict[str, Any]:
        """Return a dict that JSON can hold."""
        return asdict(self) | {"more": list(self.more)}


def judge(standing: Standing) -> Verdict:
    """Return the Verdict on a result."""
    rests = _rests_on(standing)
    if standing.baseline is None or standing.accuracy is None:
        headline = "No verdict: no counting baseline was scored on validation."
        return Verdict(NOT_KNOWN, headline, (rests,), None)
    name = standing.baseline.replace("_", " ")
    gain = standing.accuracy
    if standing.is_baseline:
        headline = f"This is the best counting baseline itself ({name})."
        return Verdict(ITSELF, headline, (rests,), standing.baseline)
    best = f"the best counting baseline ({name}{_own_prior(standing)})"
    points = gain.difference / POINT
    if gain.interval is None:
        outcome = NO_INTERVAL
        if gain.difference == 0:
            headline = f"No verdict: acc@1 equals that of {best}, and there is no interval."
        else:
            side = "above" if gain.difference > 0 else "below"
            headline = (
                f"No verdict: acc@1 is {abs(points):.1f} points {side} {best}, and there is no "
                "interval."
            )
    elif not gain.is_significant:
        low, high = (end / POINT for end in gain.interval)
        outcome = NOT_SIGNIFICANT
        headline = (
            f"Does not beat {best}: acc@1 differs by {points:+.1f} points, 95 % interval "
            f"{_end(low)} to {_end(high)}, not significant."
        )
    else:
        outcome = BEATS if gain.difference > 0 else WORSE
        verb = "Beats" if outcome == BEATS else "Is worse than"
        low, high = sorted(abs(end) / POINT for end in gain.interval)
        headline = (
            f"{verb} {best} by {abs(points):.1f} points of acc@1, 95 % interval {low:.1f} to "
            f"{high:.1f}."
        )
    more = tuple(sentence for sentence in (_on_loss(outcome, standing.loss), rests) if sentence)
    return Verdict(outcome, headline, more, standing.baseline)


def _end(points: float) -> str:
    """An end of an interval; one that would be rounded to zero keeps its sign and its digits."""
    return f"{points:+.1f}" if abs(points) >= 0.05 else f"{points:+.3f}"


def _own_prior(standing: Standing) -> str:
    return ", its own prior" if standing.is_own_prior else ""


def _on_loss(outcome: str, loss: Gain | None) -> str:
    """A sentence on the loss; it says where loss and acc@1 disagree. Empty without a loss."""
    if loss is None:
        return ""
    side = "lower" if loss.difference < 0 else "higher"
    if loss.interval is None:
        return f"The loss is {abs(loss.difference):.3f} {side} (lower is better)."
    low, high = loss.interval
    if not loss.is_significant:
        return (
            f"The loss differs by {loss.difference:+.3f} ({low:+.3f} to {high:+.3f}), not "
            "significant (lower is better)."
        )
    low, high = sorted(map(abs, loss.interval))
    said = (
        f"The loss is {abs(loss.difference):.3f} {side} ({low:.3f} to {high:.3f}; lower is better)"
    )
    if loss.difference < 0 and outcome in (NOT_SIGNIFICANT, WORSE):
        return f"{said}: the probabilities are better, the first guess is not."
    if loss.difference > 0 and outcome in (NOT_SIGNIFICANT, BEATS):
        return f"{said}: the probabilities are worse."
    return f"{said}."


def _rests_on(standing: Standing) -> str:
    seeds = "one seed" if standing.seeds == 1 else f"the mean of {standing.seeds} seeds"
    people = "1 client" if standing.clients == 1 else f"{standing.clients:,} clients"
    return f"This rests on {standing.targets:,} test targets of {people} and {seeds}."


def of_test(test: Mapping[str, Any], counting: str | None, prior: str | None) -> Verdict:
    """Return the Verdict on one evaluated run, from its test.json.

    Args:
        test: test.json.
        counting: for a counting baseline, its name in `baselines`, see `RunKind`.
        prior: the model's prior; None without a model.
    """
    name = (test.get("best_counting") or {}).get("name")
    return judge(standing_of(test, name, counting, prior))


def standing_of(
    test: Mapping[str, Any], name: str | None, counting: str | None, prior: str | None
) -> Standing:
    """Return how a run stands to the baseline `name`, from its test.json; see `of_test`."""
    gains: Mapping[str, Any] = test.get("gains", {}).get(name, {})
    has_interval = test["test/clients"] > 1
    return Standing(
        baseline=name,
        accuracy=_gain(gains, "acc@1", has_interval),
        loss=_gain(gains, "loss", has_interval),
        targets=test["test/targets"],
        clients=test["test/clients"],
        is_baseline=counting is not None and counting == name,
        is_own_prior=prior is not None and name == f"running_{prior}",
    )


def _gain(gains: Mapping[str, Any], metric: str, has_interval: bool) -> Gain | None:
    found = gains.get(f"test/{metric}/micro")
    if found is None or None in (found["difference"], *found["interval"]):
        return None  # no target has a loss
    gain = to_gain(found)
    return gain if has_interval else Gain(gain.difference, None)


def to_gain(found: Mapping[str, Any]) -> Gain:
    """Return a difference of test.json, {"difference", "interval"}, as a Gain."""
    low, high = found["interval"]
    return Gain(found["difference"], (low, high))
