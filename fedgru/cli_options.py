"""Options that several commands share."""

from pathlib import Path

import click


def _folder_option(name, variable, text):
    return click.option(
        f"--{name}-dir",
        default=name,
        show_default=True,
        envvar=variable,
        show_envvar=True,
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help=text,
    )


data_dir_option = _folder_option("data", "FEDGRU_DATA_DIR", "Where data sets are.")
log_dir_option = _folder_option("log", "FEDGRU_LOG_DIR", "Where runs are.")
