"""What a sweep tries: values and ranges of settings, a grid of them, or points drawn by TPE."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from fedgru.config.feature_names import parse_features
from fedgru.core import seeding
from fedgru.core.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

LOG_FROM = 10  # a range whose high end is this many times its low end is searched by its logarithm
DIGITS = 4  # significant digits of a number drawn from a range: it can be typed again
STARTUP_TRIALS = 10  # drawn at random, before TPE knows enough

# Points that differ in one of these are scored on other check-ins, or by another metric.
WHO_IS_SCORED = (
    *("data", "users", "min_checkins", "session_gap", "protocol", "target"),
    *("asked_at", "stop_metric", "eval_clients"),
)


def import_optuna() -> ModuleType:
    """Return the optuna module, with its log lines below a warning turned off."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


@dataclass(frozen=True)
class Range:
    """A range of numbers, both ends included.

    Attributes:
        low, high: int for a setting of whole numbers, else float.
    """

    low: int | float
    high: int | float

    @property
    def by_logarithm(self) -> bool:
        """Whether orders of magnitude count, as for a learning rate.

        >>> Range(1e-4, 1e-1).by_logarithm, Range(0.0, 0.5).by_logarithm, Range(8, 64).by_logarithm
        (True, False, False)
        """
        return self.low > 0 and self.high >= LOG_FROM * self.low


Axes: TypeAlias = dict[str, tuple[Any, ...] | Range]  # setting -> its values


def parse_values(name: str, text: str) -> list[str]:
    """Return the texts of the values in a text like `4,8,16`.

    A list of features is one value, not several: a text that is a valid value is not split. Nor is
    a list of `personal_weights`.

    >>> parse_values("seq_len", "4,8"), parse_values("features", "user,clock")
    (['4', '8'], ['user,clock'])
    >>> parse_values("features", "big,small")
    ['big', 'small']
    """
    if "," not in text or name == "personal_weights" or (name == "agnostic_to" and ":" in text):
        return [text]
    if name == "features":
        try:
            parse_features(text)
            return [text]
        except ConfigError:
            pass
    return [part.strip() for part in text.split(",")]


def check_axes(axes: Axes) -> None:
    """Raise a ConfigError unless all points are scored on the same check-ins by the same metric.

    Args:
        axes: {setting: tuple of values, or Range}.
    """
    for name, values in axes.items():
        if name in WHO_IS_SCORED:
            raise ConfigError(
                f"cannot sweep over `{name}`: it changes which check-ins are scored, or by what, "
                "so the points could not be compared. Make one sweep for each value. The same "
                f"holds for {', '.join(f'`{n}`' for n in WHO_IS_SCORED if n != name)}."
            )
        if name == "seed":
            raise ConfigError(
                "cannot sweep over `seed`: the luckiest seed is no result. Use `seeds`, which "
                "trains every point with several seeds and compares their means."
            )
        if isinstance(values, tuple) and len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ConfigError(f"`{name}` names {twice} twice.")


def grid(axes: Axes) -> list[dict[str, Any]]:
    """Return the list of all points, {setting: value}; the last axis changes fastest."""
    values = [found for found in axes.values() if not isinstance(found, Range)]
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def edges(axes: Axes) -> list[dict[str, Any]]:
    """Return points that hold each value, and both ends of each range, at least once."""
    ends = {
        name: (values.low, values.high) if isinstance(values, Range) else values
        for name, values in axes.items()
    }
    first = {name: values[0] for name, values in ends.items()}
    return [first, *(first | {name: v} for name, values in ends.items() for v in values[1:])]


def distributions(axes: Axes) -> dict[str, BaseDistribution]:
    """Return {setting: optuna distribution}."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    found: dict[str, BaseDistribution] = {}
    for name, values in axes.items():
        if not isinstance(values, Range):
            found[name] = CategoricalDistribution(values)
        elif isinstance(values.low, int) and isinstance(values.high, int):
            found[name] = IntDistribution(values.low, values.high, log=values.by_logarithm)
        else:
            found[name] = FloatDistribution(values.low, values.high, log=values.by_logarithm)
    return found


def draw(
    axes: Axes, seed: int, number: int, trials: list[FrozenTrial], direction: str
) -> dict[str, Any]:
    """Return the point that TPE draws for a trial.

    The draw depends only on the arguments, so that no state is lost with a killed process.

    Args:
        axes: {setting: tuple of values, or Range}.
        seed: int.
        number: int, of the trial to draw for.
        trials: list of optuna FrozenTrial, those before it; unfinished ones count as bad, so that
            two processes do not draw the same point.
        direction: "minimize" or "maximize".

    Returns:
        dict, {setting: value}; numbers from a float range have DIGITS significant digits.

    Source: Bergstra et al. 2011, "Algorithms for Hyper-Parameter Optimization", as optuna's
        TPESampler does it.
    """
    optuna = import_optuna()
    words = seeding.rng(seed, "sweep", number).integers(0, 2**32)
    sampler = optuna.samplers.TPESampler(n_startup_trials=STARTUP_TRIALS, seed=int(words))
    study = optuna.create_study(direction=direction, sampler=sampler)
    study.add_trials(trials)
    point = study.ask(distributions(axes)).params
    for name, values in axes.items():
        if isinstance(values, Range) and isinstance(point[name], float):
            short = float(f"{point[name]:.{DIGITS}g}")
            point[name] = min(max(short, values.low), values.high)
    return {name: point[name] for name in axes}


def axes_to_json(axes: Axes) -> dict[str, Any]:
    """Return what `axes_from_json` reads back to the same axes."""
    return {
        name: {"low": v.low, "high": v.high} if isinstance(v, Range) else list(v)
        for name, v in axes.items()
    }


def axes_from_json(found: dict[str, Any]) -> Axes:
    """Return the axes that `axes_to_json` wrote."""
    return {
        name: Range(**values) if isinstance(values, dict) else tuple(values)
        for name, values in found.items()
    }
