"""README.md, CHANGELOG.md and some of docs/: what they name exists."""

import configparser
import contextlib
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from fedgru import config
from fedgru.cli.main import main

ROOT = Path(__file__).parents[2]
PAGES = ("command-line.md", "predict.md", "deployment.md", "data.md", "protocols.md")
PROGRAMS = {("fedgru",): 1, ("python", "cli.py"): 2, ("python", "-m", "fedgru"): 3}


def readme():
    return (ROOT / "README.md").read_text("utf-8")


def shell_lines(text):
    """Return the commands of the sh blocks, continued lines joined, comments and prompts off."""
    blocks = re.findall(r"^```(?:sh|bash|console)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    joined = "\n".join(blocks).replace("\\\n", " ")
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in joined.splitlines()]
    return [line for line in words if line]


def fedgru_commands(text):
    """Return the words after `fedgru` of each such command, up to a pipe or the like."""
    found = []
    for words in shell_lines(text):
        for start, length in PROGRAMS.items():
            if tuple(words[:length]) == start:
                end = next((i for i, w in enumerate(words) if w in ("|", "&&", ";", ">")), None)
                found.append(words[length:end])
    return found


def check_command(words):
    """Raise a click.UsageError unless the commands and options exist and the values fit."""
    command, name, context = main, "fedgru", None
    while isinstance(command, click.Group):
        context = click.Context(command, info_name=name, parent=context)
        _, words, _ = command.make_parser(context).parse_args(list(words))
        if not words:  # options alone, such as --version
            return
        name, command, words = command.resolve_command(context, words)
    with contextlib.suppress(click.exceptions.Exit):  # --help
        command.make_context(name, list(words), parent=context)


def make_targets(makefile):
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def test_the_checks_themselves():
    text = "```sh\n# first\n$ fedgru train --rounds 3 \\\n    --name x | cat\nmake test\n```\n"
    assert shell_lines(text)[1] == ["make", "test"]
    assert fedgru_commands(text) == [["train", "--rounds", "3", "--name", "x"]]
    for words in ("--version", "eval --help", "data import tsmc2014 FILE --name nyc"):
        check_command(words.split())
    for words in ("trian", "--verbose eval", "train --roundz 3", "train --cell rnn", "data impor"):
        with pytest.raises(click.UsageError):
            check_command(words.split())
    assert make_targets("help:  ## list\n\t@x\nBIN := y\n") == {"help"}


def test_the_commands_in_the_readme_exist():
    commands = fedgru_commands(readme())
    assert commands
    for words in commands:
        try:
            check_command(words)
        except click.UsageError as error:
            pytest.fail(f"fedgru {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_in_the_docs_exist(page):
    commands = fedgru_commands((ROOT / "docs" / page).read_text("utf-8"))
    assert len(commands) >= 4
    for words in commands:
        check_command(words)


def systemd_units():
    """Return {file name: text} of the units in docs/deployment.md, whose first line is a path."""
    text = (ROOT / "docs/deployment.md").read_text("utf-8")
    found = re.findall(r"^```ini\n# /etc/systemd/system/(\S+)\n(.*?)^```", text, re.M | re.S)
    assert len(found) == text.count("```ini")
    return dict(found)


def test_the_systemd_units_start_what_the_page_lets_one_type():
    typed = fedgru_commands((ROOT / "docs/deployment.md").read_text("utf-8"))
    services = {name: text for name, text in systemd_units().items() if name.endswith(".service")}
    assert [name.removesuffix(".service") for name in services] == [
        "fedgru-server",
        "fedgru-client",
        "fedgru-certificate",
    ]
    for name, text in services.items():
        unit = configparser.ConfigParser(interpolation=None)
        unit.optionxform = str
        unit.read_string(text)
        program, *words = shlex.split(unit["Service"]["ExecStart"])
        check_command(words)
        assert words in typed, name
        assert words[:2] == ["deploy", re.split("[-.]", name)[1]]
        assert unit["Service"]["WorkingDirectory"] == "/srv/fedgru"
        assert program == "/srv/fedgru/.venv/bin/fedgru"
        assert unit["Service"]["User"] == "fedgru"
        if "Restart" in unit["Service"]:
            # stopped by SIGTERM; and to wait for the network it must be asked for, too
            assert unit["Service"]["SuccessExitStatus"] == "143"
            assert unit["Unit"]["Wants"] == unit["Unit"]["After"] == "network-online.target"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_units(tmp_path):
    program = tmp_path / ".venv/bin/fedgru"  # which systemd wants to be there
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    files = []
    for name, text in systemd_units().items():
        files.append(tmp_path / name)
        files[-1].write_text(text.replace("/srv/fedgru", str(tmp_path)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *files], capture_output=True, text=True
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_yaml_in_the_docs_is_a_config_file(tmp_path):
    text = (ROOT / "docs/command-line.md").read_text("utf-8")
    (found,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "docs.yaml").write_text(found)
    settings = config.load(config_file=tmp_path / "docs.yaml")
    assert (settings.client.client_lr, settings.loop.rounds) == (0.001, 5)


def test_the_make_targets_in_the_readme_exist():
    text = readme()
    named = set(re.findall(r"`make ([a-z-]+)", text))
    named |= {words[1] for words in shell_lines(text) if words[0] == "make" and len(words) > 1}
    assert {"train", "test", "test-all"} <= named
    assert named <= make_targets((ROOT / "Makefile").read_text("utf-8"))


def test_the_links_in_the_readme_lead_somewhere():
    for target in re.findall(r"\]\(([^)\s]+)\)", readme()):
        if not re.match(r"[a-z]+:|#", target):
            assert (ROOT / target.partition("#")[0]).exists(), target


def test_the_changelog_has_a_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(r"^## (Unreleased|\[?\d+\.\d+)", text, re.MULTILINE)
