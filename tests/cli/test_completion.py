"""Completion by Tab: what bash, zsh and fish ask the program, and a real bash."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

FEDGRU = [sys.executable, "-m", "fedgru"]
NEWEST_FIRST = ["b-older-name", "a-newer-name", "c-damaged"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Three runs and two data sets, as far as completion looks at them."""
    monkeypatch.chdir(tmp_path)
    for name, started in (("b-older-name", "2031-05-02"), ("a-newer-name", "2031-05-01")):
        run = tmp_path / "log" / name / "run.json"
        run.parent.mkdir(parents=True)
        run.write_text(json.dumps({"started": started}))
    for path in ("log/c-damaged/run.json", "data/nyc/passport.json", "data/hamlet/passport.json"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text("{")
    (tmp_path / "data/.scratch").mkdir()
    (tmp_path / "old").mkdir()
    shutil.copytree("log/b-older-name", "old/other")
    return tmp_path


def complete(shell, *words):
    """What the program answers a shell's script at the last word, a list of (kind, value)."""
    variables = {
        "_FEDGRU_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": " ".join(("fedgru", *words)),
        "COMP_CWORD": words[-1] if shell == "fish" else str(len(words)),
    }
    asked = subprocess.run(
        FEDGRU, env=os.environ | variables, capture_output=True, text=True, check=True
    )
    lines = asked.stdout.splitlines()
    if shell == "zsh":  # kind, value and help on a line each
        return list(zip(lines[::3], lines[1::3], strict=True))
    return [tuple(line.split("\t")[0].split(",", 1)) for line in lines]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_the_runs_newest_first(here, shell):
    assert complete(shell, "eval", "") == [("plain", name) for name in NEWEST_FIRST]
    assert complete(shell, "predict", "a") == [("plain", "a-newer-name")]


def test_every_argument_that_is_a_run_lists_them(here):
    import click

    from tests.docs.test_examples import COMMANDS

    asked = 0
    for words, command in COMMANDS.items():
        for param in command.get_params(click.Context(command)):
            if isinstance(param, click.Argument) and param.name in ("run", "runs", "names"):
                context = click.Context(command)
                found = [item.value for item in param.shell_complete(context, "")]
                assert found == NEWEST_FIRST, words
                asked += 1
    assert asked >= 8


def test_the_log_folder_that_is_named_before_counts(here):
    assert complete("bash", "eval", "--log-dir", "old", "") == [("plain", "other")]
    assert complete("bash", "eval", "log/a") == [("plain", "log/a-newer-name")]


def test_data_sets_commands_options_and_choices(here):
    names = [("plain", name) for name in ("hamlet", "nyc", "embedded")]
    assert complete("bash", "train", "--data", "") == names
    assert complete("bash", "data", "describe", "") == names
    assert complete("bash", "train", "--data", "n") == [("plain", "nyc")]
    assert complete("bash", "exp") == [("plain", "export")]
    assert complete("bash", "export", "--to", "k") == [("plain", "keras")]
    assert ("plain", "--client-lr") in complete("bash", "train", "--client-")


def test_the_script_in_a_real_bash(here):
    program = Path("bin/fedgru")
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m fedgru "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(_FEDGRU_COMPLETE=bash_source fedgru)"
        complete -p fedgru
        COMP_WORDS=(fedgru eval ""); COMP_CWORD=2
        _fedgru_completion fedgru
        echo "${COMPREPLY[@]}"
    """
    path = f"{program.parent.absolute()}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.stderr == ""
    registered, completed = done.stdout.splitlines()
    assert registered == "complete -o nosort -F _fedgru_completion fedgru"
    assert completed.split() == NEWEST_FIRST


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_scripts_of_the_other_shells_call_the_program(shell):
    variables = os.environ | {"_FEDGRU_COMPLETE": f"{shell}_source"}
    done = subprocess.run(FEDGRU, env=variables, capture_output=True, text=True, check=True)
    assert f"_FEDGRU_COMPLETE={shell}_complete" in done.stdout
    assert "fedgru" in done.stdout.splitlines()[0]
