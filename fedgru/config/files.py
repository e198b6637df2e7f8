"""Read settings from defaults, presets, files and the command line; write them as TOML.

Config files are TOML or YAML. YAML is version 1.2: 1e-3 is a number, no and 12:30 are texts, 010
is ten, and a repeated key is an error. A date is a text too. An alias is an error: with aliases
ten short lines can expand to ten thousand million values, or a value can contain itself.
"""

import difflib
import io
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fedgru.config import by_head
from fedgru.config.rules import check_together
from fedgru.config.settings import Settings, explain, fields, short
from fedgru.core.errors import ConfigError
from fedgru.core.types import AnyPath

PRESETS = Path(__file__).parent / "presets"
MAX_CONFIG_BYTES = 1 << 20  # real config files have a few KiB
MAX_YAML_DEPTH = 50  # settings have two levels


def load(
    overrides: Mapping[str, Any] | None = None,
    config_file: AnyPath | None = None,
    preset: str | None = None,
) -> Settings:
    """Return only the Settings of `resolve`."""
    settings, _ = resolve(overrides, config_file, preset)
    return settings


def resolve(
    overrides: Mapping[str, Any] | None = None,
    config_file: AnyPath | None = None,
    preset: str | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Resolve the settings: defaults < preset < config file < overrides.

    Some defaults depend on the head, see `fedgru.config.by_head`.

    Args:
        overrides: {field name: value} from the command line.
        config_file: path of a TOML file with the sections of `Settings`, or of a YAML file if its
            name ends in .yaml or .yml.
        preset: name of a file in fedgru/config/presets.

    Returns:
        (Settings, origins): origins is {field name: "default", "preset NAME", "file PATH" or
        "command line"}, for every setting.

    Raises:
        ConfigError: for a file that cannot be read, an unknown section or key, a value of the
            wrong kind or out of range, or a setting that has no effect with the others.
    """
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(fields(), "default")

    def merge(sections: Mapping[str, Any], origin: str) -> None:
        _merge(merged, sections)
        origins.update((name, origin) for values in sections.values() for name in values)

    if preset is not None:
        merge(read_toml(PRESETS / f"{preset}.toml"), f"preset {preset}")
    if config_file is not None:
        merge(read_config_file(config_file), f"file {config_file}")
    check_known(overrides or {})
    for name, value in (overrides or {}).items():
        merge({fields()[name][0]: {name: value}}, "command line")
    by_head.fill(merged)
    return build(merged), origins


def read_stored(path: AnyPath) -> Settings:
    """Return the Settings in the TOML file of a run, as they stand there; errors as `resolve`."""
    return build(read_toml(path))


def check_known(names: Iterable[str]) -> None:
    """Raise a ConfigError for the first name that is not a setting; it suggests a similar one."""
    for name in names:
        if name not in fields():
            near = difflib.get_close_matches(str(name), fields(), 1)
            advice = f" Did you mean `{near[0]}`?" if near else " fedgru config show lists them."
            raise ConfigError(f"there is no setting {name!r}.{advice}")


def change(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """Return Settings with some values replaced by {field name: value}.

    Raises:
        ConfigError: as `load`.
    """
    check_known(values)
    nested = settings.model_dump(exclude_none=True)
    for name, value in values.items():
        section = nested[fields()[name][0]]
        if value is None:
            section.pop(name, None)
        else:
            section[name] = value
    return build(nested)


def build(nested: Mapping[str, Any]) -> Settings:
    """Return the Settings of a dict of sections; errors as in `resolve`."""
    for values in nested.values():
        for name, value in values.items() if isinstance(values, Mapping) else ():
            if isinstance(value, int) and abs(value) >= 2**63:
                raise ConfigError(f"`{name}` has {len(str(value))} digits, expected at most 18.")
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(one) for one in error.errors())) from None
    check_together(settings)
    return settings


def read_config_file(path: AnyPath) -> dict[str, Any]:
    """Return the dict in a YAML file if its name ends in .yaml or .yml, else in a TOML file."""
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return read_yaml(path)
    return read_toml(path)


def read_toml(path: AnyPath) -> dict[str, Any]:
    """Return the dict in a TOML file.

    Raises:
        ConfigError: if it cannot be read, or is not TOML.
    """
    try:
        return tomllib.loads(read_config_text(path))
    except RecursionError:
        raise ConfigError(f"{path} is not a TOML file: it is nested too deep.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None


def read_config_text(path: AnyPath) -> str:
    """Return the text of a config file. Of an endless file (a device) it reads only the limit.

    Raises:
        ConfigError: if it cannot be read, holds more than MAX_CONFIG_BYTES, or is not UTF-8.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"{path} holds more than {MAX_CONFIG_BYTES >> 10:,} KiB: it is not a config file."
            )
        return io.TextIOWrapper(io.BytesIO(content), "utf-8").read()  # any line ends
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}.") from None
    except ValueError as error:  # a name with a zero byte
        raise ConfigError(f"cannot read {str(path)!r}: {error}.") from None


def read_yaml(path: AnyPath) -> dict[str, Any]:
    """Return the dict in a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, repeats a key, or is not a mapping.
    """
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    text = read_config_text(path)
    try:
        found = _parser().load(text)
    except RecursionError:
        raise ConfigError(f"{path} is not a YAML file: it is nested too deep.") from None
    except MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError(
            f"{path} is not a YAML file: line {mark.line + 1}, column {mark.column + 1}: "
            f"{error.problem}."
        ) from None
    except (YAMLError, ValueError, KeyError) as error:  # thousands of digits, or `!!bool x`
        what = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a YAML file: {what}.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        text = repr(found)
        text = text if len(text) <= 80 else f"{text[:77]}..."
        raise ConfigError(f"{path} holds {text}, expected sections such as `loop:`.")
    return found


def _parser() -> Any:
    """Return ruamel.yaml's parser of YAML 1.2 without aliases and dates, and of bounded depth."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer, ComposerError
    from ruamel.yaml.constructor import SafeConstructor
    from ruamel.yaml.events import AliasEvent

    class Bounded(Composer):
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            event = self.parser.peek_event()
            if isinstance(event, AliasEvent):
                what = f"alias *{event.anchor} is not accepted"
                raise ComposerError(problem=what, problem_mark=event.start_mark)
            if self.depth == MAX_YAML_DEPTH:  # Python's own limit would come seconds later
                raise RecursionError
            self.depth += 1
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    class WithoutDates(SafeConstructor):
        pass

    WithoutDates.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    parser = YAML(typ="safe", pure=True)
    parser.Composer, parser.Constructor = Bounded, WithoutDates
    return parser


def dump(settings: Settings) -> str:
    """Return the settings as TOML text; `load` reads the same Settings from it."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(exclude_none=True))


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _merge(into: dict[str, Any], sections: Mapping[str, Any]) -> None:
    for section, values in sections.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"{short(section)} is {short(repr(values))} in the config file, expected a "
                f"section [{short(section)}]."
            )
        into.setdefault(section, {}).update(values)
