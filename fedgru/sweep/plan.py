"""The plan of a sweep, checked before anything is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

from fedgru import config
from fedgru.engines import registry
from fedgru.sweep import search_space
from fedgru.sweep.search_space import Axes, Range
from fedgru.training import loop as round_loop

DEFAULT_TRIALS = 20


@dataclass(frozen=True)
class Plan:
    """What a sweep tries, and how it searches.

    Attributes:
        name: str, of the folder under log/sweeps/.
        base: Settings of the first point and first seed; the others differ in the axes.
        axes: {setting: tuple of values, or Range}.
        seeds: int, trainings per point.
        num_trials: int, points.
        draws: whether TPE draws the points; otherwise they are the grid, in order.
        prunes: whether a trial that is worse than the median is stopped early.
    """

    name: str
    base: config.Settings
    axes: Axes
    seeds: int
    num_trials: int
    draws: bool
    prunes: bool

    @property
    def metric(self) -> str:
        """The key of the metric, such as val/loss/micro: on validation, never on test."""
        return self.base.loop.stop_metric

    @property
    def all_seeds(self) -> range:
        """The seeds with which every point is trained."""
        first = self.base.loop.seed
        return range(first, first + self.seeds)

    @property
    def takes_threads(self) -> bool:
        """Whether fedgru chooses how many clients are trained at the same time."""
        return self.base.loop.threads is None and "threads" in registry.engine_of(self.base).knows

    @property
    def direction(self) -> str:
        """The direction of the search in optuna's words: "minimize" or "maximize"."""
        better = round_loop.parse_stop_metric(self.metric).higher_is_better
        return "maximize" if better else "minimize"

    def settings(self, point: dict[str, Any], **others: Any) -> config.Settings:
        """Return the Settings of a point.

        Raises:
            ConfigError: if its values do not fit together.
        """
        settings = config.change(self.base, point | others)
        registry.check(settings)
        return settings

    def to_json(self) -> dict[str, Any]:
        """Return the dict from which `from_json` makes the same Plan."""
        return {
            "name": self.name,
            "axes": search_space.axes_to_json(self.axes),
            "seeds": self.seeds,
            "trials": self.num_trials,
            "search": "tpe" if self.draws else "grid",
            "prune": self.prunes,
            "settings": self.base.model_dump(exclude_none=True),
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Self:
        return cls(
            name=found["name"],
            base=config.build(found["settings"]),
            axes=search_space.axes_from_json(found["axes"]),
            seeds=found["seeds"],
            num_trials=found["trials"],
            draws=found["search"] == "tpe",
            prunes=found["prune"],
        )


class PlannedSweep(Protocol):
    """A sweep's folder, plan and scored check-ins: those of `sweep.Sweep`."""

    path: Path
    plan: Plan
    scored: dict[str, Any]


def make_plan(
    axes: Axes,
    overrides: dict[str, Any],
    config_file: str | Path | None = None,
    preset: str | None = None,
    **asked: Any,
) -> Plan:
    """Make a Plan and check it, before anything is trained.

    Args:
        axes: {setting: tuple of values, or Range}.
        overrides, config_file, preset: of the other settings, see `config.load`.
        asked: name, seeds, trials, prune. For name, trials and prune, None takes the default.

    Returns:
        Plan.

    Raises:
        ConfigError: for a value that a setting does not take, and if the points could not be
            compared.
    """
    axes = {name: axes[name] for name in config.fields() if name in axes}  # in one order
    search_space.check_axes(axes)
    edges = search_space.edges(axes)
    base = config.load(overrides | edges[0], config_file, preset)
    name = asked["name"] or "_".join(axis.replace("_", "-") for axis in axes)
    draws = asked["trials"] is not None or any(isinstance(v, Range) for v in axes.values())
    points = edges if draws else search_space.grid(axes)
    plan = Plan(
        name=name,
        base=base,
        axes=axes,
        seeds=asked["seeds"],
        num_trials=(asked["trials"] or DEFAULT_TRIALS) if draws else len(points),
        draws=draws,
        prunes=draws if asked["prune"] is None else asked["prune"],
    )
    plan.settings({}, seed=plan.all_seeds[-1], name=name)
    round_loop.parse_stop_metric(plan.metric)
    for point in points:
        plan.settings(point)
    return plan
