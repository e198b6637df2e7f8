"""Options and arguments that several commands share, and their completion by Tab."""

import json
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem


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
                shell_complete=complete_data_sets if name == "data" else None,
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
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")


class RunName(click.ParamType):
    """A run: its folder's name or path. Tab lists those of the log folder, newest first."""

    name = "run"

    def shell_complete(self, ctx, param, incomplete):
        log_dir = Path(ctx.params.get("log_dir") or "log")
        names = [str(path) if "/" in incomplete else path.name for path in _newest_first(log_dir)]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


run_argument = click.argument("run", required=False, type=RunName())


def complete_data_sets(ctx, param, incomplete):
    """Names of data sets that begin with what was typed, and the embedded one's."""
    data_dir = Path(ctx.params.get("data_dir") or "data")
    names = sorted(path.parent.name for path in data_dir.glob("[!.]*/passport.json"))
    return [name for name in [*names, "embedded"] if name.startswith(incomplete)]


def _newest_first(log_dir):
    """Run folders by the time in run.json; a damaged one comes last."""

    def started(folder):
        try:
            return json.loads((folder / "run.json").read_text("utf-8")).get("started") or ""
        except (OSError, ValueError, AttributeError):
            return ""

    folders = [file.parent for file in log_dir.glob("*/run.json")]
    return sorted(folders, key=lambda folder: (started(folder), folder.name), reverse=True)


def columns_option(text, required=False, flag="--column", name="columns"):
    """Return the option --column FIELD=NAME, a dict; it may be repeated."""
    return click.option(
        flag,
        name,
        multiple=True,
        required=required,
        callback=_parse_columns,
        metavar="FIELD=NAME",
        help=text,
    )


def _parse_columns(ctx, param, pairs):
    columns = {}
    for pair in pairs:
        field, equals, column = pair.partition("=")
        if not (field and equals and column):
            raise click.BadParameter(f"{pair!r}, expected FIELD=NAME such as user=user_id.")
        if field in columns:
            raise click.BadParameter(f"{field} is given twice.")
        columns[field] = column
    return columns


mlflow_option = click.option(
    "--mlflow",
    is_flag=False,
    flag_value="local",
    metavar="[URI]",
    help="Log the run to MLflow too (pip install 'fedgru[mlflow]'), by default to a database in "
    "the log folder's mlflow/.",
)


def _keep_quiet(ctx, param, value):
    if value:
        ctx.meta["fedgru.quiet"] = True  # one dict for a context and all below it


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_keep_quiet,
    help="Nothing on stderr but warnings and errors: no progress, no notes.",
)


def is_quiet():
    """Whether --quiet was given, to the program or to the command."""
    return click.get_current_context().meta.get("fedgru.quiet", False)


def shows_progress():
    """Whether to draw bars: stderr is a terminal, and nobody asked for quiet."""
    return sys.stderr.isatty() and not is_quiet()


def note(text):
    """Say something beside the result, on stderr, unless nobody wants to hear it."""
    if not is_quiet():
        click.echo(text, err=True)


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML or YAML file of settings; options given here win over it.",
)


def print_json(value):
    """Print one JSON value for machines; a number that JSON cannot hold, such as NaN, is null."""
    from fedgru.storage.tables import to_json

    click.echo(to_json(value, ensure_ascii=False))
