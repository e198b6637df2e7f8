"""The version of this package. Packaging reads it without importing anything."""

__version__ = "0.2.0"
