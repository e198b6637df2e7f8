"""Every setting: its default, its range, its help; read from files, checked, written.

`settings` has the settings, `rules` what goes together, `files` reads and writes them; what others
use is offered here.
"""

from fedgru.config.files import (
    MAX_CONFIG_BYTES,
    PRESETS,
    build,
    dump,
    load,
    preset_names,
    read_config_file,
    read_config_text,
    read_toml,
    resolve,
)
from fedgru.config.settings import (
    EMBEDDED,
    AgnosticSettings,
    ClientSettings,
    Count,
    DataSettings,
    FaultSettings,
    InputSettings,
    LayoutSettings,
    LoopSettings,
    ModelSettings,
    Positive,
    RaySettings,
    ServerSettings,
    Settings,
    Share,
    differences,
    fields,
    option,
)

__all__ = [
    "AgnosticSettings",
    "ClientSettings",
    "Count",
    "DataSettings",
    "EMBEDDED",
    "FaultSettings",
    "InputSettings",
    "LayoutSettings",
    "LoopSettings",
    "MAX_CONFIG_BYTES",
    "ModelSettings",
    "PRESETS",
    "Positive",
    "RaySettings",
    "ServerSettings",
    "Settings",
    "Share",
    "build",
    "differences",
    "dump",
    "fields",
    "load",
    "option",
    "preset_names",
    "read_config_file",
    "read_config_text",
    "read_toml",
    "resolve",
]
