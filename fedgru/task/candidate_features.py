"""Names and constants of the features of candidates, see fedgru/task/candidates.py.

Public names:
    FeatureSet: the features of a candidate, and the context; NEXT and ASKED are the two there are.
    FOLLOWED, VISITED, ASKED_FOLLOWED, ASKED_VISITED: the weights of an earlier check-in, each a
        product of similarities, see fedgru/task/similarities.py.
    RECENCY, ESTIMATES: the other features.
    CLOCK: the part of the context that is the time of day and of the week.
    NEVER: RECENCY of a class that was never visited.
    CONTEXT_LIMIT: the standardised context is clipped to it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fedgru.core.types import Floats

# Weights of an earlier check-in j that c followed, as products of similarities to i.
FOLLOWED = {
    "any": ("fade",),
    "category": ("category", "fade"),
    "venue": ("venue", "fade"),
    "category_hour": ("category", "hour", "weekend", "fade"),
    "venue_hour": ("venue", "hour", "fade"),
    "category_pair": ("category", "category_before", "fade"),
    "venue_pair": ("venue", "venue_before", "fade"),
    "hour": ("hour", "weekend", "fade"),
    "sharp_hour": ("sharp_hour", "weekend", "fade"),
    "hour_weekday": ("hour", "weekday", "fade"),
    "near": ("near", "fade"),
    "around_hour": ("around", "hour", "fade"),
    "category_gap": ("category", "gap", "fade"),
    "venue_15_days": ("venue", "half_15"),
    "venue_sharp_hour": ("venue", "sharp_hour", "weekend", "fade"),
    "category_triple": ("category", "category_before", "category_before_that", "fade"),
    "place_in_day_hour": ("place_in_day", "hour", "weekend", "fade"),
    "category_weekday_hour": ("category", "hour", "weekday", "fade"),
    "gap_hour": ("gap", "hour", "weekend", "fade"),
}
# Weights of an earlier check-in j, or i itself, that was at c.
VISITED = {
    "all": ("one",),
    "half_3": ("half_3",),
    "half_15": ("half_15",),
    "half_60": ("half_60",),
    "soon": ("soon", "weekend", "fade"),
    "within_2_hours": ("within_2_hours", "weekend", "fade"),
    "within_8_hours": ("within_8_hours", "weekend", "fade"),
    "soon_weekday": ("soon", "weekday", "fade"),
    "yesterday": ("yesterday",),
    "week_ago": ("week_ago",),
    "today": ("today",),
    "last_10": ("last_10",),
    "last_3": ("last_3",),
    "near": ("near", "fade"),
    "around_soon": ("around", "soon", "weekend", "fade"),
}
# The same where the moment of the next check-in is known: what begins with `asked` compares it with
# the moment of the check-in after j, and of those at c with j.
ASKED_FOLLOWED = {
    "any": ("fade",),
    "category": ("category", "fade"),
    "venue": ("venue", "fade"),
    "category_hour": ("category", "asked_hour", "asked_weekend", "fade"),
    "venue_hour": ("venue", "asked_hour", "fade"),
    "category_pair": ("category", "category_before", "fade"),
    "venue_pair": ("venue", "venue_before", "fade"),
    "hour": ("asked_hour", "asked_weekend", "fade"),
    "sharp_hour": ("asked_sharp_hour", "asked_weekend", "fade"),
    "sharpest_hour": ("asked_sharpest_hour", "asked_weekend", "fade"),
    "hour_weekday": ("asked_sharp_hour", "asked_weekday", "fade"),
    "hour_15_days": ("asked_sharp_hour", "asked_weekend", "half_15"),
    "near": ("near", "fade"),
    "around_hour": ("around", "asked_hour", "fade"),
    "near_sharp_hour": ("near", "asked_sharp_hour", "asked_weekend", "fade"),
    "category_gap": ("category", "asked_gap", "fade"),
    "venue_gap": ("venue", "asked_gap", "fade"),
    "venue_15_days": ("venue", "half_15"),
    "category_sharp_hour": ("category", "asked_sharp_hour", "asked_weekend", "fade"),
    "venue_sharp_hour": ("venue", "asked_sharp_hour", "asked_weekend", "fade"),
    "category_triple": ("category", "category_before", "category_before_that", "fade"),
    "category_pair_hour": ("category", "category_before", "asked_hour", "asked_weekend", "fade"),
    "place_in_day_hour": ("asked_place_in_day", "asked_hour", "asked_weekend", "fade"),
    "category_weekday_hour": ("category", "asked_hour", "asked_weekday", "fade"),
    "gap_hour": ("asked_gap", "asked_hour", "asked_weekend", "fade"),
    "category_gap_hour": ("category", "asked_gap", "asked_sharp_hour", "fade"),
    "venue_gap_hour": ("venue", "asked_gap", "asked_sharp_hour", "fade"),
    "venue_sharpest_hour": ("venue", "asked_sharpest_hour", "asked_weekend", "fade"),
    "category_sharpest_hour": ("category", "asked_sharpest_hour", "asked_weekend", "fade"),
    "sharpest_hour_weekday": ("asked_sharpest_hour", "asked_weekday", "fade"),
    "around_gap_hour": ("around", "asked_gap", "asked_sharp_hour", "asked_weekend", "fade"),
}
ASKED_VISITED = {
    "all": ("one",),
    "half_3": ("half_3",),
    "half_15": ("half_15",),
    "half_60": ("half_60",),
    "yesterday": ("asked_yesterday",),
    "week_ago": ("asked_week_ago",),
    "today": ("asked_today",),
    "last_10": ("last_10",),
    "last_3": ("last_3",),
    "near": ("near", "fade"),
    "last_hours": ("asked_last_hours",),
}
RECENCY = (
    "log_hours_since",
    "log_check_ins_since",
    "log_interval",
    "log_overdue",
    "is_last",
    "is_before",
    "is_before_that",
    "log_km_nearest",
    "log_km_mean",
    "log_km_last",
)
ESTIMATES = ("log_base", "log_shared", "log_prior", "log_backoff")
CLOCK = ("sin", "cos", "sin_2", "cos_2", "weekend", "sin_week", "cos_week")
# What stands for a class that was never visited: its recency, in the order of RECENCY.
NEVER = (10.0, 8.0, 10.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0)


# (shift, scale) that bring a feature to about mean 0 and deviation 1: rounded from New York's train
# split. They are constants, so that no client has to tell its own.
_OF_COUNTS, _OF_FLAGS = (-0.8, 1.3), (0.0, 0.25)
_OF_RECENCY = ((4.5, 2.5), (3.3, 2.0), (5.6, 2.5), (-1.0, 2.0), *[_OF_FLAGS] * 3)
_OF_RECENCY += ((0.6, 2.0), (1.5, 1.5), (1.0, 2.0))
_OF_ESTIMATES = ((-3.7, 1.5), (-3.3, 1.0), (-3.9, 1.7), (-4.7, 2.7))
_OF_CLOCK = [*[(0.0, 0.7)] * 4, (0.25, 0.43), *[(0.0, 0.7)] * 2]
_OF_CONTEXT = dict(zip(CLOCK, _OF_CLOCK, strict=True)) | {
    "log_gap": (1.1, 1.25),
    "log_asked_gap": (1.1, 1.25),
    "place_in_day": (1.0, 0.8),
    "log_length": (5.0, 1.1),
}
_OF_TOTALS = (2.2, 1.2)
CONTEXT_LIMIT = 4.0


@dataclass(frozen=True)
class FeatureSet:
    """The features of a candidate, and the context of a prediction.

    Attributes:
        followed, visited: {name: similarities}, the weights of an earlier check-in.
        own_context: the context before the totals of the counts.
        asked_at: whether the moment of the next check-in is known: the clock of the context, the
            hours since a visit and what is called asked are then measured from it.
    """

    followed: Mapping[str, tuple[str, ...]]
    visited: Mapping[str, tuple[str, ...]]
    own_context: tuple[str, ...]
    asked_at: bool = False

    @cached_property
    def counts(self) -> tuple[str, ...]:
        """The features that are counts, those of `followed` first."""
        return (*(f"followed_{n}" for n in self.followed), *(f"visited_{n}" for n in self.visited))

    @cached_property
    def features(self) -> tuple[str, ...]:
        """All features of a candidate, in their order."""
        return (*self.counts, *RECENCY, *ESTIMATES)

    @cached_property
    def context(self) -> tuple[str, ...]:
        """What is the same for all candidates of a prediction."""
        return (*self.own_context, *(f"log_total_{name}" for name in self.counts))

    @cached_property
    def scaling(self) -> Floats:
        """float32 [2, features], what is subtracted, and what is then divided by."""
        pairs = [*[_OF_COUNTS] * len(self.counts), *_OF_RECENCY, *_OF_ESTIMATES]
        return np.array(pairs, np.float32).T

    @cached_property
    def context_scaling(self) -> Floats:
        """float32 [2, context], the same for the context."""
        pairs = [*map(_OF_CONTEXT.__getitem__, self.own_context), *[_OF_TOTALS] * len(self.counts)]
        return np.array(pairs, np.float32).T


NEXT = FeatureSet(FOLLOWED, VISITED, (*CLOCK, "log_gap", "place_in_day", "log_length"))
ASKED = FeatureSet(
    ASKED_FOLLOWED,
    ASKED_VISITED,
    (*CLOCK, "log_gap", "log_asked_gap", "place_in_day", "log_length"),
    asked_at=True,
)


def feature_set(asked_at: bool) -> FeatureSet:
    """Return the FeatureSet of a run's setting `asked_at`."""
    return ASKED if asked_at else NEXT
