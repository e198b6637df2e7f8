"""Options that several commands share are the same everywhere."""

import click

from fedgru.cli.main import main
from fedgru.cli.options import print_json


def commands(group, ctx, words=()):
    """Yield (words, command) of all commands that are no groups."""
    for name in group.list_commands(ctx):
        command = group.get_command(ctx, name)
        if isinstance(command, click.Group):
            yield from commands(command, ctx, (*words, name))
        else:
            yield (*words, name), command


def test_json_is_one_option():
    ctx = click.Context(main)
    found = {
        words: option
        for words, command in commands(main, ctx)
        for option in command.get_params(ctx)
        if "--json" in option.opts
    }
    assert {("eval",), ("data", "list"), ("runs", "list"), ("sweep",), ("export",)} <= {*found}
    assert {(option.name, option.help) for option in found.values()} == {
        ("as_json", "Print JSON, for machines.")
    }


def test_json_holds_no_nan(capsys):
    print_json({"loss": float("nan"), "name": "Café"})
    assert capsys.readouterr().out == '{\n  "loss": null,\n  "name": "Café"\n}\n'
