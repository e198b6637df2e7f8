"""The names of features, and the sets that --features takes."""

from fedgru.core.errors import ConfigError

ID_FEATURES = ("user", "category", "venue", "raw_category")
TIME_FEATURES = ("clock", "day", "month", "weekday")
NUMBER_FEATURES = ("latitude", "longitude", *TIME_FEATURES, "gap")
FEATURES = ID_FEATURES + NUMBER_FEATURES
FEATURE_SETS = {
    # the reference notebook's model inputs
    "big": ("user", "category", "venue", "raw_category", "latitude", "longitude", *TIME_FEATURES),
    "small": ("category", "clock", "weekday"),
    "category": ("category",),
}


def parse_features(text):
    """Return the tuple of feature names meant by a set's name or a comma-separated list.

    >>> parse_features("category,gap")
    ('category', 'gap')

    Raises:
        ConfigError: for an unknown or repeated name; lists the accepted ones.
    """
    names = FEATURE_SETS.get(text.strip()) or tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in FEATURES]
    if unknown and unknown[0] in FEATURE_SETS:
        raise ConfigError(
            f"--features {text}: {unknown[0]} is a set and stands alone, or is spelt out as "
            f"{','.join(FEATURE_SETS[unknown[0]])}."
        )
    if unknown:
        raise ConfigError(
            f"unknown feature {unknown[0]!r} in --features {text}. Accepted: one of the sets "
            f"{', '.join(FEATURE_SETS)}, or a comma-separated list of {', '.join(FEATURES)}."
        )
    if len(set(names)) < len(names):
        raise ConfigError(f"--features {text} names a feature twice.")
    return names
