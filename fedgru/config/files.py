"""Settings from defaults, presets, files and the command line, and back: TOML and YAML.

YAML is read as people mean it: JSON's kinds of values, and nothing else. YAML 1.1, which PyYAML
reads, takes 1e-3 for a text, no for False, 12:30 for 750 and 010 for 8, and keeps the last of two
equal keys. Here numbers are those of YAML 1.2, true and false are the only truth values, and a
repeated key is refused; so is an alias, by which ten short lines can stand for ten thousand million
values, or a value can hold itself.
"""

import io
import re
import tomllib
from pathlib import Path

from pydantic import ValidationError

from fedgru.config.rules import check_together
from fedgru.config.settings import Settings, explain, fields, short
from fedgru.core.errors import ConfigError

PRESETS = Path(__file__).parent / "presets"
MAX_CONFIG_BYTES = 1 << 20  # the longest in use are a few KiB

# YAML 1.2.2, section 10.3.2, without octal and hexadecimal numbers
_KINDS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|", "~nN\0"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
)


def load(overrides=None, config_file=None, preset=None):
    """Return the Settings alone; see `resolve`."""
    settings, _ = resolve(overrides, config_file, preset)
    return settings


def resolve(overrides=None, config_file=None, preset=None):
    """Resolve the settings: defaults < preset < config file < overrides.

    Args:
        overrides: {field name: value}, as given on the command line.
        config_file: path of a TOML file with the sections of `Settings`, or of a YAML file if it
            ends in .yaml or .yml.
        preset: name of a file in fedgru/config/presets.

    Returns:
        (Settings, origins): origins is {field name: "default", "preset NAME", "file PATH" or
        "command line"}, for every setting.

    Raises:
        ConfigError: for a file that cannot be read, an unknown section or key, a value of the
            wrong kind or out of range, or a setting that has no effect beside the others.
    """
    merged, origins = {}, dict.fromkeys(fields(), "default")

    def merge(sections, origin):
        _merge(merged, sections)
        origins.update((name, origin) for values in sections.values() for name in values)

    if preset is not None:
        merge(read_toml(PRESETS / f"{preset}.toml"), f"preset {preset}")
    if config_file is not None:
        merge(read_config_file(config_file), f"file {config_file}")
    for name, value in (overrides or {}).items():
        merge({fields()[name][0]: {name: value}}, "command line")
    return build(merged), origins


def build(nested):
    """Return the Settings of a dict of sections; see `load` for the errors."""
    try:
        settings = Settings.model_validate(nested)
    except ValidationError as error:
        raise ConfigError("\n".join(explain(one) for one in error.errors())) from None
    check_together(settings)
    return settings


def read_config_file(path):
    """Return the dict in a TOML file, or in a YAML file if its name says that it is one."""
    if Path(path).suffix.lower() in (".yaml", ".yml"):
        return read_yaml(path)
    return read_toml(path)


def read_toml(path):
    """Return the dict in a TOML file, or raise a ConfigError that says why not."""
    try:
        return tomllib.loads(read_config_text(path))
    except RecursionError:
        raise ConfigError(f"{path} is not a TOML file: it is nested too deep.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path} is not a TOML file: {error}.") from None


def read_config_text(path):
    """Return the text of a config file; of one without end (a device) no more than the limit.

    Raises:
        ConfigError: if it cannot be read, holds more than MAX_CONFIG_BYTES, or is not UTF-8.
    """
    try:
        with open(path, "rb") as stream:
            content = stream.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise ConfigError(
                f"{path} holds more than {MAX_CONFIG_BYTES >> 10:,} KiB: that is no config file."
            )
        return io.TextIOWrapper(io.BytesIO(content), "utf-8").read()  # any line ends
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not text in UTF-8: {error}.") from None
    except ValueError as error:  # a name with a zero byte
        raise ConfigError(f"cannot read {str(path)!r}: {error}.") from None


def read_yaml(path):
    """Return the dict in a YAML file.

    Raises:
        ConfigError: if it cannot be read, is not YAML, repeats a key, or is no mapping.
    """
    import yaml

    try:
        found = yaml.load(read_config_text(path), _loader())  # a SafeLoader
    except RecursionError:
        raise ConfigError(f"{path} is not a YAML file: it is nested too deep.") from None
    except (yaml.YAMLError, ValueError) as error:  # or a number of thousands of digits
        what = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a YAML file: {what}.") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        text = repr(found)
        text = text if len(text) <= 80 else f"{text[:77]}..."
        raise ConfigError(f"{path} holds {text}, expected sections such as `loop:`.")
    return found


def _loader():
    import yaml

    class Loader(yaml.SafeLoader):
        yaml_implicit_resolvers = {}

        def compose_node(self, parent, index):
            if self.check_event(yaml.AliasEvent):
                event = self.peek_event()
                raise yaml.composer.ComposerError(
                    None, None, f"alias *{event.anchor} is not accepted", event.start_mark
                )
            return super().compose_node(parent, index)

        def construct_yaml_int(self, node):
            return int(node.value)  # 010 is ten

        def construct_yaml_float(self, node):
            return float(node.value.lower().replace(".inf", "inf").replace(".nan", "nan"))

        def construct_mapping(self, node, deep=False):
            keys = [self.construct_object(key) for key, _ in node.value]
            for i, (key, _) in enumerate(node.value):
                name = keys[i]
                if name in keys[:i]:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {name!r} is there twice", key.start_mark
                    )
            return super().construct_mapping(node, deep)

    for tag, pattern, first in _KINDS:
        characters = ["" if character == "\0" else character for character in first]
        Loader.add_implicit_resolver(tag, re.compile(rf"^(?:{pattern})$"), characters)
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_yaml_int)
    Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_yaml_float)
    return Loader


def dump(settings):
    """Return the settings as TOML text that `load` reads back to the same Settings."""
    import tomli_w

    return tomli_w.dumps(settings.model_dump(exclude_none=True))


def preset_names():
    """Return the names that --preset accepts."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def _merge(into, sections):
    for section, values in sections.items():
        if not isinstance(values, dict):
            raise ConfigError(
                f"{short(section)} is {short(repr(values))} in the config file, expected a "
                f"section [{short(section)}]."
            )
        into.setdefault(section, {}).update(values)
