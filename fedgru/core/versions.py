"""Which packages are installed, and in which version."""

import platform
from contextlib import suppress
from importlib import metadata

from fedgru.core.version import __version__

PACKAGES = (
    *("jax", "jaxlib", "numpy", "pandas", "scikit-learn", "keras", "tensorflow"),
    "tensorflow-federated",  # in an environment of its own
)


def installed_versions():
    """Return {package: version} of what is installed; a package that is not there is left out."""
    versions = {"fedgru": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return versions
