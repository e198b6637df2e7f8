"""What each engine can do. Settings that it cannot follow are refused before any data is read."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fedgru.core.errors import ConfigError

if TYPE_CHECKING:
    from fedgru.config.settings import Settings
    from fedgru.engines.base import Engine

# Settings, and whole sections of them, that not every engine knows.
_JAX = frozenset(("threads", "device", "local_loop", "clients_per_call"))
_SHARED = frozenset(("robust", "faults", "agnostic_to", "prox_mu"))
_SIMULATED = frozenset(("availability",))
_BUFFERED = frozenset(("buffer_size", "concurrency"))
_OF_TASK = frozenset(("head", "session_gap", "protocol"))
_PRIVACY = frozenset(("privacy",))
LIMITED = _JAX | _SHARED | _SIMULATED | _BUFFERED | _OF_TASK | _PRIVACY
LIMITED |= {"ray", "tff_aggregator", "model"}
_SECTIONS = frozenset(("faults", "availability", "ray", "privacy"))  # the sections in LIMITED


@dataclass(frozen=True)
class EngineInfo:
    """An engine by name. Its code is imported when an engine is made.

    Attributes:
        name: as the setting `engine` has it.
        place: "module:class".
        knows: the settings and sections of LIMITED that have an effect with it.
        only: setting -> the values that it accepts, for settings of which it accepts only some.
        trains_here: whether local steps run in this process, compiled by JAX.
        trains_on_devices: whether clients of a real federation can train with it.
        sends_whole_table: whether a client is sent, and sends, rows that it does not own.
    """

    name: str
    place: str
    knows: frozenset[str]
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    trains_here: bool = False
    trains_on_devices: bool = False
    sends_whole_table: bool = False

    def load(self) -> type[Engine[Any]]:
        """Return the class of the engine."""
        module, name = self.place.split(":")
        return getattr(importlib.import_module(module), name)

    def can(self, section: str, name: str, value: Any) -> bool:
        """Whether it knows a value of a setting."""
        if value not in self.only.get(name, (value,)):
            return False
        if name == "method":  # of protecting a concept
            name = "agnostic_to"
        return _limiting(section, name) <= self.knows


ENGINES = {
    info.name: info
    for info in (
        EngineInfo(
            "jax",
            "fedgru.engines.jax.engine:JaxEngine",
            knows=_JAX | _SHARED | _SIMULATED | _BUFFERED | _OF_TASK | _PRIVACY,
            trains_here=True,
            trains_on_devices=True,
        ),
        EngineInfo(
            "reference",
            "fedgru.engines.reference:ReferenceEngine",
            knows=_SHARED | _SIMULATED | _BUFFERED | _OF_TASK | _PRIVACY | {"model"},
            only={"method": ("reversal",)},
        ),
        EngineInfo(
            "tff",
            "fedgru.engines.tff.engine:TffEngine",
            knows=frozenset(("tff_aggregator", "threads")),
            # TFF's Adagrad has its epsilon inside of the root
            only={
                "mean": ("clients",),
                "server_optimizer": ("sgd", "momentum", "adam", "yogi"),
                "server_lr_schedule": ("constant",),
                "client_weights": ("examples",),
            },
            sends_whole_table=True,
        ),
        EngineInfo(
            "ray",
            "fedgru.engines.ray.engine:RayEngine",
            knows=_SHARED | _SIMULATED | _OF_TASK | _PRIVACY | {"ray", "threads", "local_loop"},
        ),
    )
}


def engine_of(settings: Settings) -> EngineInfo:
    """Return the EngineInfo that Settings name."""
    return ENGINES[settings.loop.engine]


def check_model(settings: Settings, engine: str) -> None:
    """Raise a ConfigError unless an engine, by name, knows the model of some settings."""
    model = settings.model.model
    if model is not None and not ENGINES[engine].can("model", "model", model):
        raise ConfigError(
            f"`engine` {engine} does not know `model` {model}, which the run was trained with. "
            "Leave `engine` out."
        )


def check(settings: Settings) -> None:
    """Refuse settings that have no effect with the engine that they name.

    Raises:
        ConfigError: names the setting, and the engines that know it; also for an algorithm that
            is not known, or does not go with the settings.
    """
    from fedgru import algorithms
    from fedgru.algorithms import registry as algorithm_registry
    from fedgru.config.settings import fields

    algorithm_registry.check(settings)
    algorithms.from_settings(settings)  # one's own that cannot be made is refused, too
    info = engine_of(settings)
    for name, (section, setting) in fields().items():
        value = getattr(getattr(settings, section), name)
        if _matters(settings, section, name, setting, value) and not info.can(section, name, value):
            raise ConfigError(_refusal(info, section, name, value))


def _matters(settings: Settings, section: str, name: str, setting: Any, value: Any) -> bool:
    """Whether the run depends on the value of a setting."""
    if name == "method":
        return settings.agnostic.agnostic_to is not None
    if name == "threads" and settings.inputs.prior == "kernel":
        return False  # the prior is learnt in threads, whatever the engine
    return value != setting.default or not _limiting(section, name)


def _limiting(section: str, name: str) -> frozenset[str]:
    """Return what stands in LIMITED for a setting: its own name, or its section."""
    return LIMITED & (_SECTIONS & {section} | {name})


def _refusal(info: EngineInfo, section: str, name: str, value: Any) -> str:
    *others, last = [e.name for e in ENGINES.values() if e.can(section, name, value)]
    able = f"{', '.join(others)} or {last}" if others else last
    known, spelling = info.only.get(name), f"`{name}`"
    what = spelling if known is None else f"{spelling} {value}"
    way_out = f"leave {spelling} out" if known is None else f"{spelling} {known[0]}"
    return f"`engine` {info.name} does not know {what}. Use `engine` {able}, or {way_out}."
