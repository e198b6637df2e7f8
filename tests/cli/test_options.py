"""Options that several commands share are the same everywhere."""

import click
import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.cli.main import main
from fedgru.cli.options import NumberOr, click_type, print_json
from fedgru.core.errors import ConfigError


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


def test_a_number_or_a_word():
    kind = click_type(config.fields()["train_users"][1].annotation)
    assert isinstance(kind, NumberOr)
    assert [kind.convert(text, None, None) for text in ("100", "all", 7)] == [100, "all", 7]
    with pytest.raises(click.BadParameter) as error:
        kind.convert("most", None, None)
    assert error.value.message == "'most' is not a whole number or all."
    assert [item.value for item in kind.shell_complete(None, None, "a")] == ["all"]
    for command, shown in (("train", "INTEGER|all"), ("sweep", "INTEGER|all,...")):
        text = CliRunner().invoke(main, [command, "--help-all"]).stdout
        assert f"--train-users {shown}" in text
    assert click_type(config.fields()["min_checkins"][1].annotation) is int


def test_all_users_is_the_default_by_its_name():
    assert "--users INTEGER|all" in CliRunner().invoke(main, ["train", "--help"]).stdout
    named, left_out = config.load({"users": "all"}), config.load({})
    assert (named.data.num_users, left_out.data.num_users) == (None, None)
    assert config.load({"users": 7}).data.num_users == 7
    with pytest.raises(ConfigError, match="`train_users` has no effect without `users`"):
        config.load({"users": "all", "train_users": 3})


def test_train_users_on_the_command_line():
    for given, message in (
        (["--train-users", "all"], "--train-users has no effect without --users, the number"),
        (["--users", "3", "--train-users", "2"], "--train-users is 2, but the 3 of --users, who"),
        (["--users", "3", "--train-users", "0"], "--train-users is 0, expected a whole number of"),
    ):
        result = CliRunner().invoke(main, ["train", *given])
        assert result.exit_code == 1
        assert f"Error: {message}" in result.stderr
    result = CliRunner().invoke(
        main, ["config", "show", "--toml", "--users", "3", "--train-users", "all"]
    )
    assert 'train_users = "all"' in result.stdout


def test_json_holds_no_nan(capsys):
    print_json({"loss": float("nan"), "name": "Café"})
    assert capsys.readouterr().out == '{\n  "loss": null,\n  "name": "Café"\n}\n'
