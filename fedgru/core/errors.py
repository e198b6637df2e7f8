"""The exceptions that a user reads: where, what was found, what to do next."""


class FedgruError(Exception):
    """Base of every error that fedgru raises on purpose; the text is shown as it is."""


class DataError(FedgruError):
    """A file, data set or category table cannot be used."""


class ConfigError(FedgruError):
    """A setting is unknown, out of range, or does not fit the others or the data."""


class MissingEngineError(ConfigError):
    """An engine needs packages that this environment does not have."""


class TrainingError(FedgruError):
    """Training cannot continue: the loss is not a number, or clients do not fit together."""


class Interrupted(FedgruError):
    """Work was stopped from outside, by Ctrl-C or SIGTERM.

    Args:
        what: text after "stopped by Ctrl-C": what was stopped and how to continue.
        cause: the KeyboardInterrupt, or a Terminated.
    """

    def __init__(self, what: str, cause: BaseException) -> None:
        by, self.exit_code = ("SIGTERM", 143) if isinstance(cause, Terminated) else ("Ctrl-C", 130)
        super().__init__(f"stopped by {by}{what}")


class Terminated(KeyboardInterrupt):
    """SIGTERM, raised like Ctrl-C, so that both end the program in the same way."""


class RunError(FedgruError):
    """A run folder is missing, incomplete, or does not fit the command."""
