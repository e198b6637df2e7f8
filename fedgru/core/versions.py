"""Which packages are installed, and their versions."""

import platform
from contextlib import suppress
from importlib import metadata

from fedgru.core.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "numpy", "pandas", "scikit-learn", "keras", "tensorflow"),
    "dp-accounting",
    "tensorflow-federated",  # in an environment of its own
)


def installed_versions() -> dict[str, str]:
    """Return {package: version} of the installed packages; a missing package is left out."""
    versions = {"fedgru": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
