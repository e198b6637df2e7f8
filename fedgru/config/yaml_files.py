"""Settings from YAML, read as people mean it: JSON's kinds of values, and nothing else.

YAML 1.1, which PyYAML reads, takes 1e-3 for a text, no for False, 12:30 for 750 and 010 for 8, and
keeps the last of two equal keys. Here numbers are those of YAML 1.2, true and false are
the only truth values, and a repeated key is refused; so is an alias, by which ten short lines
can stand for ten thousand million values, or a value can hold itself.
"""

import re

from fedgru.config.settings import read_config_text
from fedgru.core.errors import ConfigError

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
