"""What `fedgru algorithms` lists: each algorithm, what it needs, and what runs it."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

from fedgru import algorithms, config
from fedgru.algorithms import registry
from fedgru.algorithms.catalogue import BY_SETTING, BySetting
from fedgru.algorithms.per_client import PerClient
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.registry import AlgorithmInfo
from fedgru.core import plugins
from fedgru.core.errors import ConfigError
from fedgru.engines.registry import ENGINES


@dataclass(frozen=True)
class Listed:
    """An algorithm of the list.

    Attributes:
        name, paper, does: see AlgorithmInfo.
        asked_by: {setting: value} that ask for it; the value None stands for any number.
        needs: {setting: value} that it needs as well.
        settings: {setting: default} of the settings that only it uses.
        keeps: what a client keeps from round to round; "" for nothing.
        sends: what is sent beside weights and updates; "" for nothing.
        engines: names of the engines that run it.
        local_steps: what runs its local steps on engine jax: "C or XLA", or "XLA".
        package: the package that brings it; "" for fedgru.
        explained: the docstring of its class; only of one that is asked for by name.
    """

    name: str
    paper: str
    does: str
    asked_by: dict[str, Any]
    needs: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    keeps: str = ""
    sends: str = ""
    engines: tuple[str, ...] = ()
    local_steps: str = "C or XLA"
    package: str = ""
    explained: str = ""


@dataclass(frozen=True)
class Listing:
    """The list.

    Attributes:
        by_name: those that the setting `algorithm` names, other packages' last.
        by_setting: those that another setting asks for.
        not_loaded: {name: why} of entry points that cannot be loaded.
    """

    by_name: tuple[Listed, ...]
    by_setting: tuple[Listed, ...]
    not_loaded: dict[str, str]


def list_algorithms() -> Listing:
    """Return the Listing of all algorithms; other packages are imported for it."""
    by_name = [_by_name(info) for info in registry.BUILT_IN.values()]
    not_loaded: dict[str, str] = {}
    try:
        entries = plugins.find(registry.GROUP)
    except ConfigError as error:
        entries, not_loaded = {}, {registry.GROUP: str(error)}
    for name, entry in entries.items():
        try:
            info = plugins.load(entry, AlgorithmInfo)
        except ConfigError as error:
            not_loaded[name] = str(error)
        else:
            by_name.append(replace(_by_name(info), package=plugins.package_of(entry)))
    return Listing(tuple(by_name), tuple(map(_by_setting, BY_SETTING.values())), not_loaded)


def explain_algorithm(name: str) -> Listed:
    """Return the Listed of one algorithm, with the docstring of its class.

    Args:
        name: one of the list, or MODULE:OBJECT of your own.

    Raises:
        ConfigError: if there is none, with a suggestion; or if it cannot be made.
    """
    if name in BY_SETTING:
        found = BY_SETTING[name]
        return replace(_by_setting(found), explained=_docstring(found.kind))
    others = plugins.find(registry.GROUP)
    known = [*registry.BUILT_IN, *others]
    if ":" not in name and name not in known:
        known += BY_SETTING
        near = get_close_matches(name, known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise ConfigError(f"there is no algorithm {name!r}.{hint} All: {', '.join(known)}.")
    info = registry.find(name)
    algorithm = _made(info)
    listed = replace(
        _by_name(info), asked_by={"algorithm": name}, explained=_docstring(type(algorithm))
    )
    if name in registry.BUILT_IN:
        return listed
    if name in others:
        return replace(listed, package=plugins.package_of(others[name]))
    rule = algorithm.client_rule
    in_c = rule.correction is None and not rule.at_received
    keeps = isinstance(algorithm, PerClient) and algorithm.keeps
    return replace(
        listed,
        keeps=listed.keeps or ("something of its own" if keeps else ""),
        local_steps=_local_steps(in_c and info.in_c),
    )


def _by_name(info: AlgorithmInfo) -> Listed:
    return Listed(
        info.name,
        info.paper,
        info.does,
        asked_by={"algorithm": info.name},
        needs={"client_optimizer": "sgd"} if info.needs_sgd else {},
        settings={name: registry.DEFAULTS.get(name) for name in info.settings},
        keeps=info.keeps,
        sends=info.sends,
        engines=_ordered(info.engines),
        local_steps=_local_steps(info.in_c),
    )


def _by_setting(info: BySetting) -> Listed:
    section, _ = config.fields()[info.setting]
    able = [e.name for e in ENGINES.values() if e.can(section, info.setting, info.value)]
    return Listed(
        info.name,
        info.paper,
        info.does,
        asked_by={info.setting: None if info.is_number else info.value},
        settings=info.settings,
        engines=_ordered(able),
    )


def _ordered(engines: Collection[str]) -> tuple[str, ...]:
    others = sorted(set(engines) - ENGINES.keys())
    return (*(name for name in ENGINES if name in engines), *others)


def _local_steps(in_c: bool) -> str:
    return "C or XLA" if in_c else "XLA"


def _made(info: AlgorithmInfo) -> Algorithm:
    """Make an algorithm with its default settings."""
    needs = {"client_optimizer": "sgd"} if info.needs_sgd else {}
    settings = config.load({"head": "dense", "algorithm": info.name, "mean": "clients", **needs})
    return registry.make(info, settings, algorithms.server_half(settings))


def _docstring(kind: type) -> str:
    return inspect.getdoc(kind) or ""
