"""Settings in library errors become options at the terminal."""

import click
import pytest
from click.testing import CliRunner

from fedgru import config
from fedgru.cli.main import main
from fedgru.cli.option_names import with_options
from fedgru.core.errors import ConfigError
from fedgru.data.datasets import import_file


@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["train"], "`client_lr` is -1.", "--client-lr is -1."),
        # the parameters of the command at hand, whose words differ from their names
        (["data", "import", "csv"], "`offset_min` and `columns`", "--offset and --column"),
        (["--debug", "predict"], "`offset_min`", "--offset"),
        (["train"], "`offset_min` and `seq_len`", "`offset_min` and --seq-len"),
        # what is neither setting nor parameter stays, and so does a whole command
        (["eval"], "`fedgru eval` of `nobody`", "`fedgru eval` of `nobody`"),
        (["agnostic", "sweep"], "`crop_size` is 3", "--crop-size is 3"),
        (["eval"], "`fine_tune` `engine`", "--fine-tune --engine"),
    ],
)
def test_names_become_options(words, text, expected):
    with click.Context(main):
        assert with_options(text, words) == expected


def test_one_error_twice(tmp_path):
    columns = {"user": "u", "venue": "v", "time": "t", "offset": "o"}
    with pytest.raises(ConfigError) as error:
        import_file("csv", "x.csv", "x", tmp_path, columns=columns, offset_min=60)
    rest = "exclude each other: give one of them."
    assert str(error.value) == f"`offset_min` and `columns` offset=... {rest}"
    words = ["data", "import", "csv", "x.csv", "--name", "x", "--offset", "60"]
    for field, name in columns.items():
        words += ["--column", f"{field}={name}"]
    result = CliRunner().invoke(main, [*words, "--data-dir", str(tmp_path)])
    assert (result.exit_code, result.stderr) == (
        1,
        f"Error: --offset and --column offset=... {rest}\n",
    )


def test_every_setting_has_an_option():
    with click.Context(main):
        for name in config.fields():
            assert with_options(f"`{name}`", []) == config.option(name)
