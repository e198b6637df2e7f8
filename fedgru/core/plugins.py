"""What other packages and modules bring: entry points, or MODULE:NAME. Loaded only when needed."""

import contextlib
import difflib
import importlib
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

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
    where, loaded = _place_of(entry), _load(entry)
    if not isinstance(loaded, kind):
        raise ConfigError(f"{where} is a {type(loaded).__name__}, expected a {kind.__name__}.")
    if loaded.name != entry.name:
        raise ConfigError(f"{where} is called {loaded.name!r}, but its entry point {entry.name!r}.")
    return loaded


def _place_of(entry: metadata.EntryPoint) -> str:
    return f"{entry.value} of the package {package_of(entry)} ({entry.group})"


def _load(entry: metadata.EntryPoint) -> Any:
    try:
        return entry.load()
    except Exception as error:
        raise ConfigError(
            f"{_place_of(entry)} cannot be loaded: {type(error).__name__}: {error}. "
            "Upgrade the package, or uninstall it."
        ) from error


def load_named(text: str, group: str, setting: str) -> Any:
    """Return the object that a setting names: MODULE:NAME, or the name of an entry point.

    Args:
        text: value of the setting.
        group: of the entry points.
        setting: name of the setting, for the errors.

    Raises:
        ConfigError: as `import_object`; or if there is no such entry point, or it cannot be loaded.
    """
    if ":" in text:
        return import_object(text, setting)
    found = find(group)
    if text in found:
        return _load(found[text])
    known = f"one of {', '.join(found)}" if found else "there is none"
    raise ConfigError(
        f"`{setting}` is {text}, expected MODULE:NAME, such as my_module:name, or the name of an "
        f"entry point {group} of an installed package ({known}).{_advice(text, found)}"
    )


def import_object(place: str, setting: str) -> Any:
    """Return the object that MODULE:NAME names.

    A module in the current folder needs no installation. It comes before an installed module of
    the same name.

    Args:
        place: such as my_package:MyRule.
        setting: the setting that names it, for messages.

    Raises:
        ConfigError: if there is no such module or name, with a similar one where there is one; or
            if the module cannot be imported.
    """
    module_name, _, path = place.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *path.split(".")]):
        raise ConfigError(f"`{setting}` is {place}, expected MODULE:NAME, such as my_module:name.")
    found = _import(place, module_name, setting)
    for name in path.split("."):
        if not hasattr(found, name):
            public = [known for known in dir(found) if not known.startswith("_")]
            raise ConfigError(
                f"`{setting}` is {place}, but {getattr(found, '__name__', found)} has no {name}."
                f"{_advice(name, public)}"
            )
        found = getattr(found, name)
    return found


def _import(text: str, name: str, setting: str) -> Any:
    """Import the module `name` of a setting's value `text`; errors as `import_object`."""
    try:
        with current_folder_first():
            importlib.invalidate_caches()  # a file can be new
            return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _broken(text, name, setting, error) from error
        raise ConfigError(
            f"`{setting}` is {text}, but there is no module {error.name}, neither in the folder "
            f"{Path.cwd()} nor installed.{_advice(name, _modules_here())}"
        ) from None
    except Exception as error:
        raise _broken(text, name, setting, error) from error


def _broken(text: str, name: str, setting: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"`{setting}` is {text}, but the module {name} cannot be imported: {where_raised(error)}."
    )


def where_raised(error: Exception) -> str:
    """Return an exception as one line: its kind and text, and the line of code that raised it.

    That is the last line outside of fedgru and of installed packages, if there is one.
    """
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split()).rstrip(".")
    words = f"{type(error).__name__}: {text if len(text) <= 300 else f'{text[:297]}...'}"
    home = str(Path(__file__).parents[1])
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and not frame.filename.startswith(home)
    ]
    frames = [f for f in frames if "site-packages" not in f.filename] or frames
    if not frames:
        return words
    return f"{words} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"


def passed_own_code(error: Exception) -> bool:
    """Return whether an exception came through code of neither fedgru, a package nor Python."""
    known = [Path(__file__).parents[1], Path(sysconfig.get_path("stdlib"))]
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return any(
        not file.startswith("<") and not any(Path(file).is_relative_to(one) for one in known)
        for file in files
        if "site-packages" not in file
    )


@contextlib.contextmanager
def current_folder_first() -> Iterator[None]:
    """A context in which modules of the current folder can be imported."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _modules_here() -> list[str]:
    """Return the names of the modules and packages in the current folder."""
    here = Path.cwd()
    files = [path.stem for path in here.glob("*.py")]
    return sorted([*files, *(path.parent.name for path in here.glob("*/__init__.py"))])


def _advice(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]}?" if near else ""


def kind_of(value: object) -> str:
    """Return the name of a value's class with its article.

    >>> kind_of(3), kind_of({})
    ('an int', 'a dict')
    """
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def package_of(entry: metadata.EntryPoint) -> str:
    """Return the name of the package that an entry point belongs to."""
    return entry.dist.name if entry.dist else "?"
