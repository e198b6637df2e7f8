"""Library errors name settings, `client_lr`; people at the terminal type options, --client-lr."""

import re
from collections.abc import Sequence

import click

_NAMED = re.compile(r"`([a-z][a-z0-9_]*)`")


def with_options(text: str, words: Sequence[str] | None = None) -> str:
    """Return a text with options in place of the names of settings in backticks.

    Other names in backticks stay unchanged.

    Args:
        text: such as "`client_lr` is -1, expected a number above 0."
        words: of the command line whose options are meant; None takes the running command.
    """
    if not _NAMED.search(text):
        return text
    from fedgru import config

    ctx = click.get_current_context()
    command = ctx.command if words is None else _find_command(ctx.find_root().command, words)
    options = {name: config.option(name) for name in config.fields()}
    for param in command.get_params(click.Context(command)):
        if isinstance(param, click.Option):
            options[str(param.name)] = max(param.opts, key=len)
    return _NAMED.sub(lambda found: options.get(found[1], found[0]), text)


def _find_command(program: click.Command, words: Sequence[str]) -> click.Command:
    """The command that the words of a command line name; options before it are flags."""
    command, ctx = program, click.Context(program)
    for word in words:
        if word.startswith("-"):
            continue
        if not isinstance(command, click.Group):
            break
        command = command.get_command(ctx, word) or command
    return command
