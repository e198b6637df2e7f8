"""Which settings go together: what is refused because it has no effect beside the others.

What an engine does not know is refused in `fedgru/engines/registry.py`.
"""

import re

from fedgru.config.feature_names import (
    CYCLE_FEATURES,
    ID_FEATURES,
    SCALED_FEATURES,
    parse_features,
)
from fedgru.config.methods import parse_method
from fedgru.config.settings import Settings, option, short
from fedgru.core.errors import ConfigError


def check_together(settings):
    """Refuse settings, other than the defaults, that have no effect beside the others."""
    features = settings.inputs.features
    names = set(parse_features(features))
    for name, needed in (
        ("clock", CYCLE_FEATURES),
        ("scaling", SCALED_FEATURES),
        ("vocabulary", ID_FEATURES),
    ):
        if getattr(settings.inputs, name) != _default("inputs", name) and not names & set(needed):
            raise ConfigError(
                f"{option(name)} has no effect: --features {features} holds none of "
                f"{', '.join(needed)}."
            )
    server, loop = settings.server, settings.loop
    if server.server_momentum is not None and server.server_optimizer != "momentum":
        raise ConfigError(
            f"--server-momentum has no effect with --server-optimizer {server.server_optimizer}. "
            "Use --server-optimizer momentum, or leave it out."
        )
    if server.tff_noise is not None and server.tff_aggregator != "dp":
        raise ConfigError(
            f"--tff-noise has no effect with --tff-aggregator {server.tff_aggregator}. Use "
            "--tff-aggregator dp, or leave it out."
        )
    address = settings.ray.ray_address
    if address not in (None, "auto") and not re.fullmatch(r"[^\s:/]+:\d{1,5}", address):
        raise ConfigError(
            f"--ray-address is {short(address)}, expected HOST:PORT, such as 10.0.0.1:6379, or "
            "auto."
        )
    _check_faults(settings)
    _check_agnostic(settings.agnostic)
    if loop.min_improvement > 0 and loop.patience == 0:
        raise ConfigError("--min-improvement has no effect with --patience 0 (never stop early).")
    if not loop.name.replace("-", "").replace("_", "").replace(".", "").isalnum():
        raise ConfigError(
            f"--name is {loop.name!r}, expected letters, digits, dots, dashes and underscores."
        )


def _check_faults(settings):
    server, faults = settings.server, settings.faults
    if server.liar_share is not None and server.robust not in ("trimmed-mean", "krum"):
        raise ConfigError(
            f"--liar-share has no effect with --robust {server.robust}. Use --robust trimmed-mean "
            "or krum, or leave it out."
        )
    if server.mean == "clients" and server.robust in ("median", "trimmed-mean"):
        raise ConfigError(
            f"--mean clients has no effect with --robust {server.robust}, which takes each id's "
            "row over those who own it. Leave it out."
        )
    if faults.attack == "none":
        for name in ("attackers", "attack_scale"):
            if getattr(faults, name) is not None:
                raise ConfigError(f"{option(name)} has no effect without --attack.")
    elif faults.attackers is None:
        raise ConfigError(f"--attack {faults.attack} needs --attackers, how many clients lie.")
    elif faults.attack == "label-flip" and faults.attack_scale is not None:
        raise ConfigError("--attack-scale has no effect with --attack label-flip.")


def _check_agnostic(agnostic):
    if agnostic.agnostic_to is None:
        for name in ("alpha", "protected_weight", "alpha_schedule", "method", "protected_head"):
            if getattr(agnostic, name) != _default("agnostic", name):
                raise ConfigError(
                    f"{option(name)} has no effect without --agnostic-to CONCEPT, such as "
                    "--agnostic-to zone."
                )
        return
    if agnostic.protected_weight is not None and agnostic.alpha != _default("agnostic", "alpha"):
        raise ConfigError("--alpha has no effect beside --protected-weight: give one of the two.")
    method = parse_method(agnostic.method)
    if method.decorrelate:
        raise ConfigError(
            f"--method {agnostic.method} draws examples so that target and concept are "
            "independent, which a stream of check-ins, read in order, does not allow. Leave "
            "decorrelate out."
        )
    if agnostic.protected_head != "auto" and not method.adversaries:
        raise ConfigError(
            f"--protected-head has no effect with --method {agnostic.method}, which has no head."
        )
    if agnostic.protected_head == "local" and method.adversary_steps > 1:
        raise ConfigError(
            f"--method {agnostic.method} lets the heads go ahead of the clients: use "
            "--protected-head server, or leave it out."
        )


def _default(section, name):
    return getattr(getattr(Settings(), section), name)
