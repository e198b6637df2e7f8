"""Plugins from other packages: entry points, loaded only when needed."""

from importlib import metadata
from typing import Protocol, TypeVar

from fedgru.core.errors import ConfigError


class _Named(Protocol):
    @property
    def name(self) -> str: ...


NamedT = TypeVar("NamedT", bound=_Named)


def find(group: str) -> dict[str, metadata.EntryPoint]:
    """Return the entry points of a group by name, sorted; nothing is loaded.

    Raises:
        ConfigError: if two packages bring the same name.
    """
    found: dict[str, metadata.EntryPoint] = {}
    for entry in sorted(metadata.entry_points(group=group), key=lambda entry: entry.name):
        other = found.setdefault(entry.name, entry)
        if other is not entry:
            raise ConfigError(
                f"the packages {package_of(other)} and {package_of(entry)} both bring "
                f"{entry.name!r} ({group}). Uninstall one of them."
            )
    return found


def load(entry: metadata.EntryPoint, kind: type[NamedT]) -> NamedT:
    """Return the object behind an entry point.

    Args:
        entry: from `find`.
        kind: the class it must be an instance of. Its attribute `name` must be the entry's name.

    Raises:
        ConfigError: if it cannot be loaded or is something else; names the package.
    """
    where = f"{entry.value} of the package {package_of(entry)} ({entry.group})"
    try:
        loaded = entry.load()
    except Exception as error:
        raise ConfigError(
            f"{where} cannot be loaded: {type(error).__name__}: {error}. "
            "Upgrade the package, or uninstall it."
        ) from error
    if not isinstance(loaded, kind):
        raise ConfigError(f"{where} is a {type(loaded).__name__}, expected a {kind.__name__}.")
    if loaded.name != entry.name:
        raise ConfigError(f"{where} is called {loaded.name!r}, but its entry point {entry.name!r}.")
    return loaded


def package_of(entry: metadata.EntryPoint) -> str:
    """Return the name of the package that an entry point belongs to."""
    return entry.dist.name if entry.dist else "?"
