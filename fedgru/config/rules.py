"""Rules for combinations of settings: a setting without effect is an error.

`fedgru/engines/registry.py` refuses what an engine cannot do.
"""

import re
from typing import Any

from fedgru.config.feature_names import (
    CYCLE_FEATURES,
    ID_FEATURES,
    OWN_KIND,
    SCALED_FEATURES,
    kind_of,
    parse_features,
)
from fedgru.config.methods import parse_method
from fedgru.config.settings import AgnosticSettings, Settings, short
from fedgru.core.errors import ConfigError

TOGETHER = ("alie", "inner-product", "backdoor")  # attacks for which the liars of a cohort wait
BACKDOOR = ("backdoor_trigger", "backdoor_target")
# setting -> the values of `robust` with which it has an effect
ROBUST_SETTINGS = {
    "liar_share": ("trimmed-mean", "krum", "bulyan"),
    "clip_norm": ("norm-bounding", "centred-clipping"),
    "robust_iterations": ("geometric-median", "centred-clipping"),
}


def check_together(settings: Settings) -> None:
    """Raise a ConfigError if a setting is not its default and has no effect with the others."""
    features = settings.inputs.features
    names = set(parse_features(features))
    own = {name for name in names if kind_of(name) == OWN_KIND}
    for name, needed in (
        ("clock", CYCLE_FEATURES),
        ("scaling", (*SCALED_FEATURES, *own)),
        ("vocabulary", ID_FEATURES),
    ):
        has_effect = names & set(needed) or (settings.inputs.asked_at and name != "vocabulary")
        if getattr(settings.inputs, name) != _default("inputs", name) and not has_effect:
            raise ConfigError(
                f"`{name}` has no effect: `features` {features} holds none of {', '.join(needed)}."
            )
    if settings.inputs.asked_at and settings.inputs.prior == "markov":
        raise ConfigError(
            "`prior` markov counts without the time, which `asked_at` makes known. Use `prior` "
            "kernel or backoff, or none."
        )
    _check_users(settings)
    _check_sessions(settings)
    server, loop = settings.server, settings.loop
    if server.server_momentum is not None and server.server_optimizer != "momentum":
        raise ConfigError(
            f"`server_momentum` has no effect with `server_optimizer` {server.server_optimizer}. "
            "Use `server_optimizer` momentum, or leave it out."
        )
    if server.tff_noise is not None and server.tff_aggregator != "dp":
        raise ConfigError(
            f"`tff_noise` has no effect with `tff_aggregator` {server.tff_aggregator}. Use "
            "`tff_aggregator` dp, or leave it out."
        )
    address = settings.ray.ray_address
    if address not in (None, "auto") and not re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
        raise ConfigError(
            f"`ray_address` is {short(address)}, expected HOST:PORT, such as 10.0.0.1:6379, or "
            "auto."
        )
    if settings.model.model is not None:
        for name in ("cell", "hidden_dim", "dropout"):
            if getattr(settings.model, name) != _default("model", name):
                raise ConfigError(
                    f"`{name}` has no effect with `model` {short(settings.model.model)}, whose "
                    "function decides it. Leave one of them out."
                )
    _check_head(settings)
    _check_faults(settings)
    _check_agnostic(settings.agnostic)
    _check_availability(settings)
    _check_privacy(settings)
    if loop.min_improvement > 0 and loop.patience == 0:
        raise ConfigError("`min_improvement` has no effect with `patience` 0 (never stop early).")
    if not loop.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(
            f"`name` is {loop.name!r}, expected letters, digits, dots, dashes and underscores."
        )


def _check_users(settings: Settings) -> None:
    users, train_users = settings.data.num_users, settings.data.train_users
    if train_users is None:
        return
    if users is None:
        raise ConfigError(
            "`train_users` has no effect without `users`, the number of users who are scored: all "
            "train. Give `users`, or leave it out."
        )
    if train_users != "all" and train_users < users:
        raise ConfigError(
            f"`train_users` is {train_users}, but the {users} of `users`, who are scored, train "
            f"too: give {users} or more, or all."
        )


def _check_sessions(settings: Settings) -> None:
    """Refuse what cannot follow sessions or a protocol: it would not be as documented."""
    data = settings.data
    if data.session_gap is None and data.protocol is None:
        return
    asked = "session_gap" if data.protocol is None else "protocol"
    if data.protocol is not None:
        for other in ("session_gap", "min_checkins", "train_users"):
            if getattr(data, other) != _default("data", other):
                raise ConfigError(
                    f"`{other}` has no effect with `protocol` {data.protocol}, which decides it: "
                    "leave one of them out."
                )
        if settings.inputs.target != "venue":
            raise ConfigError(
                f"`protocol` {data.protocol} predicts venues: give `target` venue, or leave it out."
            )
    for name, given, why in (
        ("layout", settings.layout.layout == "chunks", "whose chunks do not end with a session"),
        ("asked_at", settings.inputs.asked_at, "which knows the moment of every next check-in"),
        ("model", settings.model.model is not None, "whose state fedgru cannot reset row by row"),
        (
            "agnostic_to",
            settings.agnostic.agnostic_to is not None,
            "which erases states of all check-ins",
        ),
    ):
        if given:
            raise ConfigError(
                f"`{asked}` cannot be combined with `{name}`, {why}: leave one of them out."
            )


def _check_head(settings: Settings) -> None:
    model = settings.model
    if model.head == "dense":
        for name in ("head_dim", "head_dropout"):
            if getattr(model, name) is not None:
                raise ConfigError(
                    f"`{name}` has no effect with `head` dense. Use `head` candidates, or leave it "
                    "out."
                )
        return
    if model.model is not None:
        raise ConfigError(
            f"`head` candidates has no effect with `model` {short(model.model)}, whose function "
            "decides the head. Leave one of them out."
        )
    if settings.inputs.prior == "none":
        raise ConfigError(
            "`head` candidates needs a prior, which it starts from: `prior` kernel, backoff or "
            "markov."
        )
    if settings.agnostic.agnostic_to is not None:
        raise ConfigError(
            "`agnostic_to` needs `head` dense: the head candidates reads a person's past beside "
            "the representation, so hiding a concept in the representation would not hide it."
        )


def _check_faults(settings: Settings) -> None:
    server, faults = settings.server, settings.faults
    for name, rules in ROBUST_SETTINGS.items():
        if getattr(server, name) is not None and server.robust not in rules:
            able = f"{', '.join(rules[:-1])} or {rules[-1]}"
            raise ConfigError(
                f"`{name}` has no effect with `robust` {server.robust}. Use `robust` {able}, or "
                "leave it out."
            )
    if server.robust in ROBUST_SETTINGS["clip_norm"] and server.clip_norm is None:
        raise ConfigError(f"`robust` {server.robust} needs `clip_norm`, such as `clip_norm` 1.")
    if server.mean == "clients" and server.robust in ("median", "trimmed-mean", "bulyan"):
        raise ConfigError(
            f"`mean` clients has no effect with `robust` {server.robust}, which averages each id's "
            "row over the clients that own it. Leave it out."
        )
    if faults.attack == "none":
        for name in ("attackers", "attack_scale", *BACKDOOR):
            if getattr(faults, name) is not None:
                raise ConfigError(f"`{name}` has no effect without `attack`.")
    elif faults.attackers is None:
        raise ConfigError(
            f"`attack` {faults.attack} needs `attackers`, the number of malicious clients."
        )
    elif faults.attack == "label-flip" and faults.attack_scale is not None:
        raise ConfigError("`attack_scale` has no effect with `attack` label-flip.")
    for name in BACKDOOR:
        if faults.attack not in ("none", "backdoor") and getattr(faults, name) is not None:
            raise ConfigError(
                f"`{name}` has no effect with `attack` {faults.attack}. Use `attack` backdoor, or "
                "leave it out."
            )


def _check_agnostic(agnostic: AgnosticSettings) -> None:
    if agnostic.agnostic_to is None:
        for name in ("alpha", "protected_weight", "alpha_schedule", "method", "protected_head"):
            if getattr(agnostic, name) != _default("agnostic", name):
                raise ConfigError(
                    f"`{name}` has no effect without `agnostic_to`, such as `agnostic_to` zone."
                )
        return
    if agnostic.protected_weight is not None and agnostic.alpha != _default("agnostic", "alpha"):
        raise ConfigError("`alpha` has no effect with `protected_weight`: give one of the two.")
    method = parse_method(agnostic.method)
    if method.decorrelate:
        raise ConfigError(
            f"`method` {agnostic.method} draws examples so that target and concept are "
            "independent. Check-ins are read in order, so they cannot be drawn. Leave decorrelate "
            "out."
        )
    if agnostic.protected_head != "auto" and not method.adversaries:
        raise ConfigError(
            f"`protected_head` has no effect with `method` {agnostic.method}, which has no head."
        )
    if agnostic.protected_head == "local" and method.adversary_steps > 1:
        raise ConfigError(
            f"`method` {agnostic.method} trains the heads ahead of the clients: use "
            "`protected_head` server, or leave it out."
        )


def _check_privacy(settings: Settings) -> None:
    """Refuse what differential privacy cannot be combined with, each with its reason."""
    privacy, server, loop = settings.privacy, settings.server, settings.loop
    if not privacy.is_on:
        for name in type(privacy).model_fields:
            if getattr(privacy, name) != _default("privacy", name):
                raise ConfigError(f"`{name}` has no effect without `dp_clip`, such as `dp_clip` 1.")
        return
    if (privacy.dp_noise is None) == (privacy.dp_epsilon is None):
        raise ConfigError("`dp_clip` needs `dp_noise` or `dp_epsilon`, one of the two.")
    _check_drawn(settings)
    for name, value, needed, why in (
        ("mean", server.mean, "clients", "a mean over the owners of a row reveals who owns it"),
        (
            "client_weights",
            server.client_weights,
            "equal",
            "the noise hides one client's update, which may not count more than another's",
        ),
        ("robust", server.robust, "none", "the noise is made for a sum of clipped updates"),
        (
            "algorithm",
            settings.algorithm.algorithm,
            "fed-avg",
            "others send what is not noised, or weigh clients by it",
        ),
        (
            "agnostic_to",
            settings.agnostic.agnostic_to,
            None,
            "what its heads learn from is not noised",
        ),
        (
            "min_clients",
            settings.faults.min_clients,
            1,
            "a skipped round reveals the size of its cohort",
        ),
        ("patience", loop.patience, 0, "validation, which is not noised, may not choose the round"),
    ):
        if value != needed:
            instead = "Leave it out" if needed is None else f"Use `{name}` {needed}"
            raise ConfigError(f"`{name}` {value} does not go with `dp_clip`: {why}. {instead}.")
    if settings.availability.is_simulated:
        name = next(n for n, v in settings.availability if v != _default("availability", n))
        raise ConfigError(
            f"`{name}` does not go with `dp_clip`: who is on decides who takes part, and the "
            "accountant knows only cohorts that are drawn. Leave it out."
        )


def _check_drawn(settings: Settings) -> None:
    """Refuse ways to draw cohorts that the accountant does not know."""
    privacy, cohort = settings.privacy, settings.loop.clients_per_round
    if privacy.dp_mechanism == "gaussian":
        if privacy.dp_bands is not None:
            raise ConfigError(
                "`dp_bands` has no effect with `dp_mechanism` gaussian. Use `dp_mechanism` banded, "
                "or leave it out."
            )
        if privacy.dp_sampling is not None and cohort is None:
            raise ConfigError(
                "`dp_sampling` has no effect without `clients_per_round`: all take part."
            )
        return
    if cohort is None:
        raise ConfigError(
            "`dp_mechanism` banded needs `clients_per_round`: the cohorts take turns."
        )
    if privacy.dp_sampling is not None:
        raise ConfigError(
            "`dp_sampling` has no effect with `dp_mechanism` banded, whose cohorts take turns. "
            "Leave it out."
        )
    if privacy.dp_adaptive_clip is not None:
        raise ConfigError(
            "`dp_adaptive_clip` does not go with `dp_mechanism` banded: noise of several rounds "
            "can cancel only while the clip stays. Leave one of them out."
        )


def _check_availability(settings: Settings) -> None:
    simulated = settings.availability
    if not simulated.availability.strip():
        raise ConfigError("`availability` is empty, expected none, clock or a CSV file.")
    if simulated.window_h is not None and simulated.availability != "clock":
        raise ConfigError(
            f"`window_h` has no effect with `availability` {simulated.availability}. Use "
            "`availability` clock, or leave it out."
        )
    if simulated.buffer_size is not None:
        _check_buffered(settings)
    elif simulated.concurrency is not None:
        raise ConfigError("`concurrency` has no effect without `buffer_size`.")
    if simulated.oversample is not None and settings.loop.clients_per_round is None:
        raise ConfigError("`oversample` has no effect without `clients_per_round`.")


def _check_buffered(settings: Settings) -> None:
    """Refuse what belongs to rounds with a cohort: with `buffer_size` rounds overlap."""
    if settings.loop.clients_per_round is not None:
        raise ConfigError(
            "`clients_per_round` has no effect with `buffer_size`: `concurrency` is how many "
            "clients train at once. Leave it out."
        )
    if settings.faults.min_clients != _default("faults", "min_clients"):
        raise ConfigError(
            "`min_clients` has no effect with `buffer_size`: the server waits for that many "
            "updates. Leave it out."
        )
    if settings.faults.attack in TOGETHER:
        raise ConfigError(
            f"`attack` {settings.faults.attack} needs rounds with a cohort, whose liars act "
            "together, which `buffer_size` has not: leave one of them out."
        )
    if settings.algorithm.algorithm != _default("algorithm", "algorithm"):
        raise ConfigError(
            f"`algorithm` {settings.algorithm.algorithm} needs rounds with a cohort, which "
            "`buffer_size` has not: leave one of them out."
        )
    if settings.agnostic.agnostic_to is not None:
        raise ConfigError(
            "`agnostic_to` needs rounds with a cohort, which `buffer_size` has not: leave one of "
            "them out."
        )


def _default(section: str, name: str) -> Any:
    return getattr(getattr(Settings(), section), name)
