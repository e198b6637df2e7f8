"""The version, in the one place that everything reads it from; imports nothing."""

__version__ = "0.1.0"
