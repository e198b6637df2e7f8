"""The exceptions a user ever reads: where, what was found, what to do next."""


class FedgruError(Exception):
    """Base of every error that fedgru raises on purpose; the text is shown as it is."""


class DataError(FedgruError):
    """A file, data set or category table cannot be used."""


class ConfigError(FedgruError):
    """A setting is unknown, out of range, or does not fit the others or the data."""


class MissingEngineError(ConfigError):
    """An engine lives in another environment than this one."""


class TrainingError(FedgruError):
    """Training cannot go on: a loss that is not a number, or clients that do not fit together."""


class Interrupted(FedgruError):
    """Work was stopped from outside, by Ctrl-C or SIGTERM.

    Args:
        what: what was stopped and how to go on, after "stopped by Ctrl-C".
        cause: the KeyboardInterrupt.
    """

    def __init__(self, what, cause):
        by, self.exit_code = ("SIGTERM", 143) if isinstance(cause, Terminated) else ("Ctrl-C", 130)
        super().__init__(f"stopped by {by}{what}")


class Terminated(KeyboardInterrupt):
    """SIGTERM, as what Ctrl-C raises, so that both take the same way out. No error to be read."""


class RunError(FedgruError):
    """A run folder is missing, incomplete, or does not fit what is asked of it."""
