"""A real federation on Flower (flwr): each participant's check-ins stay on their own machine.

flwr is an extra, fedgru[flower], so it is imported only where it is needed.
"""

import importlib.util

from fedgru.core.errors import ConfigError


def require_flower() -> None:
    """Raise a ConfigError that tells how to install Flower, if it is not installed."""
    if importlib.util.find_spec("flwr") is None:
        raise ConfigError(
            "fedgru deploy needs Flower, which is not in this environment. Install it with: "
            "pip install 'fedgru[flower]'"
        )
