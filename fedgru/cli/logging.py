"""The log lines on stderr while a command works: warnings, and a line per round."""

import logging
import sys
from typing import TextIO

import click

from fedgru.cli.option_names import with_options
from fedgru.cli.options import is_quiet
from fedgru.core.visible import visible


def log_to_stderr(level: int | None = None) -> None:
    """Show warnings; without a terminal for the progress bar, also a line per round."""
    if level is None:
        level = logging.WARNING if sys.stderr.isatty() or is_quiet() else logging.INFO
    handler = AboveTheBar()
    handler.setLevel(level)
    handler.addFilter(lambda record: record.levelno < logging.ERROR)  # the program prints these
    logger = logging.getLogger("fedgru")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    click.get_current_context().call_on_close(lambda: logger.removeHandler(handler))


class AboveTheBar(logging.StreamHandler):
    """Writes whole lines to stderr, above the progress bar if there is one.

    Settings are written as options, as in errors.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self._ctx = click.get_current_context(silent=True)  # threads that log have none

    def format(self, record: logging.LogRecord) -> str:
        text = visible(super().format(record))
        if self._ctx is None:
            return text
        with self._ctx.scope(cleanup=False):
            return with_options(text)

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        with tqdm.external_write_mode(self.stream):
            super().emit(record)
