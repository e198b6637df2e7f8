"""Options and arguments that several commands share, and their completion by Tab."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from fedgru.cli.help import ALL as ALL_SETTINGS
from fedgru.cli.help import SettingOption, range_text, write_options
from fedgru.core.errors import FedgruError
from fedgru.core.visible import encodable, visible

if TYPE_CHECKING:
    from click.decorators import FC


class LazyOptions(click.Command):
    """Adds the settings' options when the command is used, not when the program starts.

    Its --help shows the basic ones, --help-all all of them.
    """

    @property
    def left_out(self) -> Collection[str]:
        """Names of settings that are no options of the command."""
        return ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not getattr(self, "_complete", False):
            self._complete = True
            settings = settings_options(self.setting_type, self.left_out)
            self.params = [*self.params, help_all_option(), *settings]
        return super().get_params(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_options(self, ctx, formatter)

    def setting_type(self, name: str, plain: Any) -> Any:
        """Return the Click type of a setting's option; `plain` is the setting's own."""
        return plain


def help_all_option() -> click.Option:
    """Return --help-all, which prints the help with all settings and ends the program."""

    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value and not ctx.resilient_parsing:
            ctx.meta[ALL_SETTINGS] = True
            echo(ctx.get_help())
            ctx.exit()

    return click.Option(
        ["--help-all"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=show,
        help="Show all settings, in groups, and exit.",
    )


def settings_options(
    setting_type: Callable[[str, Any], Any] = lambda name, plain: plain,
    left_out: Collection[str] = (),
) -> list[click.Parameter]:
    """Return --preset and one option per setting; the value is None if it is not given.

    Args:
        setting_type: called as setting_type(name, plain), returns the Click type of an option.
        left_out: names of settings without an option.
    """
    from fedgru import config

    options: list[click.Parameter] = [
        SettingOption(
            ["--preset"],
            type=click.Choice(config.preset_names()),
            help="A named set of settings. A config file overrides it.",
        )
    ]
    for name, (section, info) in config.fields().items():
        if name in left_out:
            continue
        default = config.default_text(name)
        facts = [range_text(info), f"default: {default}" if default else ""]
        shown = "; ".join(fact for fact in facts if fact)
        text = f"{info.description}  [{shown}]" if shown else str(info.description)
        if info.annotation is bool:
            flag = config.option(name)
            negated = flag.replace("--", "--no-", 1)
            option = SettingOption([f"{flag}/{negated}", name], default=None, help=text)
        else:
            option = SettingOption(
                [config.option(name), name],
                type=setting_type(name, click_type(info.annotation)),
                help=text,
                shell_complete=complete_data_sets if name == "data" else None,
            )
        option.section = section
        options.append(option)
    return options


def click_type(annotation: Any) -> Any:
    """Return the Click type of a setting's annotation."""
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if annotation in (str, int, float):
        return annotation
    kinds = get_args(annotation)
    if int in kinds and (
        words := [w for kind in kinds if get_origin(kind) is Literal for w in get_args(kind)]
    ):
        return NumberOr(words)
    # an annotation like `int | None`, with or without bounds: take its first type
    return next(kind for kind in map(click_type, kinds) if kind is not type(None))


class NumberOr(click.ParamType):
    """A whole number, or one of some words."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = words
        self.name = "|".join(["integer", *words])

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return "|".join(["INTEGER", *self.words])

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in self.words or isinstance(value, int):
            return value
        try:
            return int(value)
        except ValueError:
            self.fail(f"{value!r} is not a whole number or {' or '.join(self.words)}.", param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(word) for word in self.words if word.startswith(incomplete)]


def _folder_option(name: str, variable: str, text: str) -> Callable[[FC], FC]:
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

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        log_dir = Path(ctx.params.get("log_dir") or "log")
        names = [str(path) if "/" in incomplete else path.name for path in _newest_first(log_dir)]
        return [CompletionItem(name) for name in names if name.startswith(incomplete)]


run_argument = click.argument("run", required=False, type=RunName())


def complete_data_sets(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of data sets that begin with the typed text, with the embedded one."""
    data_dir = Path(ctx.params.get("data_dir") or "data")
    names = sorted(path.parent.name for path in data_dir.glob("[!.]*/passport.json"))
    return [name for name in [*names, "embedded"] if name.startswith(incomplete)]


def _newest_first(log_dir: Path) -> list[Path]:
    """Run folders by the time in run.json; a damaged one comes last."""
    from fedgru.storage.files import read_json_object

    def started(folder: Path) -> str:
        try:
            return str(read_json_object(folder / "run.json").get("started") or "")
        except (OSError, ValueError):
            return ""

    folders = [file.parent for file in log_dir.glob("*/run.json")]
    return sorted(folders, key=lambda folder: (started(folder), folder.name), reverse=True)


def columns_option(
    text: str, required: bool = False, flag: str = "--column", name: str = "columns"
) -> Callable[[FC], FC]:
    """Return the option --column FIELD=NAME, a dict; it can be repeated."""
    return click.option(
        flag,
        name,
        multiple=True,
        required=required,
        callback=_parse_columns,
        metavar="FIELD=NAME",
        help=text,
    )


def _parse_columns(
    ctx: click.Context, param: click.Parameter, pairs: Sequence[str]
) -> dict[str, str]:
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
    help="Log the run to MLflow too: by default to a database in the log folder's mlflow/. Needs "
    "pip install 'fedgru[mlflow]'.",
)


def _keep_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["fedgru.quiet"] = True  # a context shares this dict with its parents


quiet_option = click.option(
    "-q",
    "--quiet",
    is_flag=True,
    expose_value=False,
    callback=_keep_quiet,
    help="Print only warnings and errors on stderr.",
)


names_option = click.option(
    "--names",
    "with_names",
    is_flag=True,
    help="Write the users' ids, not pseudonyms: for yourself, not to be given away.",
)


def is_quiet() -> bool:
    """Whether --quiet was given, to the program or to the command."""
    return bool(click.get_current_context().meta.get("fedgru.quiet", False))


def shows_progress() -> bool:
    """Whether to draw progress bars: stderr is a terminal, without --quiet."""
    return sys.stderr.isatty() and not is_quiet()


def echo(text: str, err: bool = False, nl: bool = True) -> None:
    """Print a text: the only way from fedgru to the terminal.

    Control characters, and characters that the terminal's encoding does not have, are shown as
    escapes.

    Args:
        text: one or more lines.
        err: print it on stderr.
        nl: end it with a new line.

    Raises:
        OutputError: if it cannot be written, but not where the reader has gone away: of that
            BrokenPipeError Click makes a quiet end.
    """
    stream = sys.stderr if err else sys.stdout
    try:
        click.echo(encodable(visible(text), stream.encoding), err=err, nl=nl)
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output(stream)
        raise OutputError(
            f"cannot write to {'stderr' if err else 'stdout'}: {error.strerror}."
        ) from error


def drop_output(stream: TextIO) -> None:
    """Let a stream that cannot be written lead nowhere, so that Python does not try again."""
    with suppress(OSError, ValueError):  # it is no file
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class OutputError(FedgruError):
    """What a command prints cannot be written."""


def note(text: str) -> None:
    """Print a note on stderr, unless --quiet was given."""
    if not is_quiet():
        echo(text, err=True)


config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML or YAML file of settings; options on the command line override it.",
)


def print_json(value: Any) -> None:
    """Print one JSON value for machines; numbers that JSON cannot hold, such as NaN, are null."""
    from fedgru.storage.tables import to_json

    echo(to_json(value, ensure_ascii=False))
