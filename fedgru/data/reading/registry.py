"""The formats of check-in files that can be read: fedgru's, and those of other packages."""

from fedgru.core import plugins
from fedgru.core.errors import ConfigError
from fedgru.data.reading import delimited, geolife, getnext, libcity, snap, tist2015, tsmc2014
from fedgru.data.reading.base import Reader

GROUP = "fedgru.readers"  # of entry points
READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        delimited.READER,
        geolife.READER,
        getnext.GETNEXT,
        getnext.WEEPLACES,
        libcity.READER,
        snap.READER,
        tist2015.READER,
        tsmc2014.READER,
    )
}


def reader_names() -> list[str]:
    """Return the names of all formats, sorted; other packages' readers are not loaded.

    Raises:
        ConfigError: if two packages have the same format, or a package one that fedgru has too.
    """
    found = plugins.find(GROUP)
    for name in READERS.keys() & found.keys():
        raise ConfigError(
            f"the package {plugins.package_of(found[name])} brings a reader {name!r} ({GROUP}), "
            "which fedgru has itself. Uninstall the package."
        )
    return sorted([*READERS, *found])


def find_reader(name: str) -> Reader:
    """Return the reader of a format; another package's is loaded now.

    Raises:
        ConfigError: if there is none of that name, or it cannot be loaded.
    """
    if name in READERS:
        return READERS[name]
    found = plugins.find(GROUP)
    if name not in found:
        raise ConfigError(f"there is no format {name!r}, only {', '.join(reader_names())}.")
    return plugins.load(found[name], Reader)
