"""Help of commands with many settings: the basic ones on one screen, all of them in groups."""

import re

import click
import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.cli.help import BASIC, SECTIONS, range_text
from fedgru.cli.main import main
from fedgru.config.settings import Settings
from tests.docs.test_examples import COMMANDS, context_of


def help_of(*words, width=80):
    result = CliRunner().invoke(main, words, prog_name="fedgru", terminal_width=width)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_basic_settings_of_train_fit_one_screen():
    text = help_of("train", "--help")
    assert len(text.splitlines()) <= 50
    shown = set(re.findall(r"^  (?:-., )?--([a-z-]+)", text, re.MULTILINE))
    assert {name.replace("_", "-") for name in BASIC} <= shown
    assert f"All {len(config.fields()) + 1} settings, in groups: fedgru train --help-all" in text


def test_all_settings_stand_below_the_heading_of_their_section():
    assert set(SECTIONS) == set(Settings.model_fields)
    text = help_of("train", "--help-all", width=200)
    parts = dict(re.findall(r"^([A-Z].*):\n((?:  .*\n?)+)", text, re.MULTILINE))
    for name, (section, info) in config.fields().items():
        lines = parts[SECTIONS[section]]
        assert re.search(rf"^  {config.option(name)}\b", lines, re.MULTILINE), name
        assert " ".join(info.description.split())[:60] in " ".join(lines.split()), name


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "fedgru")
def test_every_option_has_a_text(words):
    command = COMMANDS[words]
    for param in command.get_params(context_of(command)):
        if isinstance(param, click.Option) and not param.hidden:
            assert param.help and param.help[0].isupper(), param.opts


def test_no_summary_of_a_command_is_cut():
    for words, command in COMMANDS.items():
        if isinstance(command, click.Group):
            lines = help_of(*words, "--help").splitlines()[1:]
            assert not [line for line in lines if line.endswith("...")], words


@pytest.mark.parametrize(
    "name, expected",
    [
        ("batch_size", "at least 1"),
        ("min_checkins", "at least 3"),
        ("dropout", "0 to below 1"),
        ("liar_share", "0 to below 0.5"),
        ("client_lr", "above 0"),
        ("alpha", "0 to 1"),
        ("window_h", "1 to 24"),
        ("seed", "0 to 4,294,967,295"),
        ("name", ""),
        ("target", ""),
    ],
)
def test_ranges(name, expected):
    assert range_text(config.fields()[name][1]) == expected
