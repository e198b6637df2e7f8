"""A real federation on Flower (flwr): each participant's check-ins stay on their own machine.

Nothing here imports flwr before it is needed: it is an extra, fedgru[flower].
"""

import importlib.util

from fedgru.core.errors import ConfigError


def require_flower():
    """Raise a ConfigError that says how to install Flower, unless it is here."""
    if importlib.util.find_spec("flwr") is None:
        raise ConfigError(
            "fedgru deploy needs Flower, which is not in this environment. Install it with: "
            "pip install 'fedgru[flower]'"
        )
