"""Options that several commands share."""

from pathlib import Path
from typing import Literal, get_args, get_origin

import click


class LazyOptions(click.Command):
    """Adds the settings' options when the command is used, not when the program starts."""

    left_out = ()

    def get_params(self, ctx):
        if not getattr(self, "_complete", False):
            self._complete = True
            self.params = [*self.params, *settings_options(self.setting_type, self.left_out)]
        return super().get_params(ctx)

    def setting_type(self, name, plain):
        """Return the Click type of a setting's option; `plain` is the setting's own."""
        return plain


def settings_options(setting_type=lambda name, plain: plain, left_out=()):
    """Return --preset and one option per setting; None means that it is not given.

    Args:
        setting_type: called as setting_type(name, plain), returns the Click type of an option.
        left_out: names of settings without an option.
    """
    from fedgru import config

    options = [
        click.Option(
            ["--preset"],
            type=click.Choice(config.preset_names()),
            help="Settings that fedgru knows by name. A config file wins over it.",
        )
    ]
    for name, (_, info) in config.fields().items():
        if name in left_out:
            continue
        default = "" if info.default is None else f"  [default: {info.default}]"
        options.append(
            click.Option(
                [config.option(name), name],
                type=setting_type(name, click_type(info.annotation)),
                help=f"{info.description}{default}",
            )
        )
    return options


def click_type(annotation):
    """Return the Click type of a setting's annotation."""
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if annotation in (str, int, float):
        return annotation
    # `kind | None`, perhaps with bounds: the first plain type in it
    return next(kind for kind in map(click_type, get_args(annotation)) if kind in (str, int, float))


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
