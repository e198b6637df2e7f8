"""fedgru: federated models of where people go next, trained, scored and compared.

What is named here is imported when it is first used, so that `import fedgru` costs nothing.
docs/python.md shows a notebook's worth of it.
"""

import importlib
from typing import TYPE_CHECKING, Any

from fedgru.core.version import __version__

if TYPE_CHECKING:
    from fedgru.algorithms import ClientRule, FedAvg, FedProx, FedSubAvg
    from fedgru.api.data import describe_data, import_data, list_data, make_city, open_data
    from fedgru.api.run import Run, compare, list_runs, open_run
    from fedgru.api.training import baseline, build_task, make_settings, resume, train
    from fedgru.config.settings import Settings
    from fedgru.core.errors import FedgruError

_PLACES = {
    "fedgru.algorithms": ("ClientRule", "FedAvg", "FedProx", "FedSubAvg"),
    "fedgru.api.data": ("describe_data", "import_data", "list_data", "make_city", "open_data"),
    "fedgru.api.run": ("Run", "compare", "list_runs", "open_run"),
    "fedgru.api.training": ("baseline", "build_task", "make_settings", "resume", "train"),
    "fedgru.config.settings": ("Settings",),
    "fedgru.core.errors": ("FedgruError",),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}

__all__ = [
    "ClientRule",
    "FedAvg",
    "FedProx",
    "FedSubAvg",
    "FedgruError",
    "Run",
    "Settings",
    "__version__",
    "baseline",
    "build_task",
    "compare",
    "describe_data",
    "import_data",
    "list_data",
    "list_runs",
    "make_city",
    "make_settings",
    "open_data",
    "open_run",
    "resume",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fedgru' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
