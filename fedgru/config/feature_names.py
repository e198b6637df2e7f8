"""The names and kinds of features, and the sets that the setting `features` accepts."""

from collections.abc import Iterable

from fedgru.core.errors import ConfigError

# id: a column of the check-ins, one-hot. cycle: the phase of a time in a cycle, as sine and cosine.
# scaled: one number, standardised. `fedgru/task/features.py` computes the last two.
FEATURES = {
    "user": "id",
    "category": "id",
    "venue": "id",
    "raw_category": "id",
    "latitude": "scaled",
    "longitude": "scaled",
    "clock": "cycle",
    "day": "cycle",
    "month": "cycle",
    "weekday": "cycle",
    "gap": "scaled",
}
ID_FEATURES, CYCLE_FEATURES, SCALED_FEATURES = (
    tuple(name for name, kind in FEATURES.items() if kind == which)
    for which in ("id", "cycle", "scaled")
)
_PLACE = ("user", "category", "venue", "raw_category", "latitude", "longitude")
FEATURE_SETS = {
    # the reference notebook's model inputs
    "big": (*_PLACE, "clock", "day", "month", "weekday"),
    "small": ("category", "clock", "weekday"),
    "category": ("category",),
}


def parse_features(text: str) -> tuple[str, ...]:
    """Return the feature names of a set, or of a comma-separated list.

    >>> parse_features("category,gap")
    ('category', 'gap')

    Raises:
        ConfigError: for an unknown or repeated name; lists the accepted ones.
    """
    names = FEATURE_SETS.get(text.strip()) or tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in FEATURES]
    if unknown and unknown[0] in FEATURE_SETS:
        raise ConfigError(
            f"`features` is {text}, but {unknown[0]} is a set: give it alone, or list its "
            f"features: {','.join(FEATURE_SETS[unknown[0]])}."
        )
    if unknown:
        raise ConfigError(
            f"unknown feature {unknown[0]!r} in `features` {text}. Accepted: one of the sets "
            f"{', '.join(FEATURE_SETS)}, or a comma-separated list of {', '.join(FEATURES)}."
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"`features` {text} names a feature twice.")
    return names


def number_inputs(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return {feature: names of its inputs} of the features that are numbers, in their order.

    >>> number_inputs(("category", "gap", "clock"))
    {'gap': ('gap',), 'clock': ('clock_sin', 'clock_cos')}
    """
    return {
        name: (f"{name}_sin", f"{name}_cos") if FEATURES[name] == "cycle" else (name,)
        for name in names
        if FEATURES[name] != "id"
    }
