"""Names and constants of the features of candidates, see fedgru/task/candidates.py.

Public names:
    FOLLOWED, VISITED: the weights of an earlier check-in, each a product of similarities, see
        fedgru/task/similarities.py.
    RECENCY, ESTIMATES: the other features.
    FEATURES: all features of a candidate, in their order.
    CLOCK, CONTEXT: what is the same for all candidates of a prediction.
    NEVER: RECENCY of a class that was never visited.
    SHIFTS, SCALES, CONTEXT_SHIFTS, CONTEXT_SCALES: float32, what is subtracted from FEATURES and
        from CONTEXT, and what they are then divided by.
    CONTEXT_LIMIT: the standardised context is clipped to it.
"""

import numpy as np

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
FEATURES = (
    *(f"followed_{name}" for name in FOLLOWED),
    *(f"visited_{name}" for name in VISITED),
    *RECENCY,
    *ESTIMATES,
)
CLOCK = ("sin", "cos", "sin_2", "cos_2", "weekend", "sin_week", "cos_week")
CONTEXT = (*CLOCK, "log_gap", "place_in_day", "log_length") + tuple(
    f"log_total_{name}" for name in FEATURES[: len(FOLLOWED) + len(VISITED)]
)
# What stands for a class that was never visited: its recency, in the order of RECENCY.
NEVER = (10.0, 8.0, 10.0, 0.0, 0.0, 0.0, 0.0, 4.0, 4.0, 4.0)


# (shift, scale) that bring a feature to about mean 0 and deviation 1: rounded from New York's train
# split. They are constants, so that no client has to tell its own.
_OF_COUNTS, _OF_FLAGS = (-0.8, 1.3), (0.0, 0.25)
_OF_RECENCY = ((4.5, 2.5), (3.3, 2.0), (5.6, 2.5), (-1.0, 2.0), *[_OF_FLAGS] * 3)
_OF_RECENCY += ((0.6, 2.0), (1.5, 1.5), (1.0, 2.0))
_OF_ESTIMATES = ((-3.7, 1.5), (-3.3, 1.0), (-3.9, 1.7), (-4.7, 2.7))
_NUM_COUNTS = len(FOLLOWED) + len(VISITED)
SHIFTS, SCALES = np.array([*[_OF_COUNTS] * _NUM_COUNTS, *_OF_RECENCY, *_OF_ESTIMATES], np.float32).T
_OF_CLOCK = [*[(0.0, 0.7)] * 4, (0.25, 0.43), *[(0.0, 0.7)] * 2]
CONTEXT_SHIFTS, CONTEXT_SCALES = np.array(
    [*_OF_CLOCK, (1.1, 1.25), (1.0, 0.8), (5.0, 1.1), *[(2.2, 1.2)] * _NUM_COUNTS], np.float32
).T
CONTEXT_LIMIT = 4.0
