"""fedgru config show, and settings from YAML."""

import json
import re

import pytest

from fedgru import config
from fedgru.core.errors import ConfigError
from tests.cli.test_main import invoke


def shown(*words):
    return json.loads(invoke("config", "show", *words, "--json").stdout)


def test_each_value_says_where_it_comes_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text("[loop]\nrounds = 5\nseed = 3\n")
    words = ("--preset", "notebook", "--config", "mine.toml", "--seed", "4")
    found = shown(*words)
    assert found["loop.seed"] == {"value": 4, "origin": "command line"}
    assert found["loop.rounds"] == {"value": 5, "origin": "file mine.toml"}
    assert found["inputs.vocabulary"] == {"value": "range", "origin": "preset notebook"}
    assert found["agnostic.zones"] == {"value": 12, "origin": "default"}
    assert list(found) == [f"{section}.{name}" for name, (section, _) in config.fields().items()]
    lines = invoke("config", "show", *words).stdout.splitlines()
    assert len(lines) == 1 + len(found)
    assert lines[0].split() == ["setting", "value", "origin"]
    cells = [re.split(r" {2,}", line) for line in lines[1:]]
    assert ["loop.rounds", "5", "file mine.toml"] in cells
    assert ["loop.threads", "-", "default"] in cells


def test_as_toml_it_is_a_config_file(tmp_path):
    file = tmp_path / "all.toml"
    file.write_text(
        invoke("config", "show", "--preset", "notebook", "--rounds", 3, "--toml").stdout
    )
    assert config.load(config_file=file) == config.load({"rounds": 3}, preset="notebook")


def test_json_and_toml_exclude_each_other():
    result = invoke("config", "show", "--json", "--toml", code=2)
    assert result.stderr.endswith(
        "Error: --json and --toml exclude each other: give one of them.\n"
    )


def test_settings_that_do_not_fit_are_refused_as_in_training():
    message = "Error: --clock has no effect: --features category holds none of clock, day, month, "
    result = invoke("config", "show", "--features", "category", "--clock", "utc", code=1)
    assert result.stderr == f"{message}weekday.\n"


YAML = """
# what YAML 1.1 would take for 0.001 as a text, False, a date, 750 and 8
client: {client_lr: 1e-3, local_epochs: 010}
data: {data: no, users: ~}
loop:
  name: 2024-01-01
  rounds: 12
inputs:
  features: category,clock
model: {dropout: .5}
server:
"""


@pytest.mark.parametrize("name", ["a.yaml", "b.yml", "C.YML"])
def test_yaml_is_read_as_people_mean_it(tmp_path, name):
    (tmp_path / name).write_text(YAML.replace("server:\n", ""))
    settings = config.load(config_file=tmp_path / name)
    assert settings.client.client_lr == 0.001
    assert settings.client.local_epochs == 10
    assert settings.data.data == "no"
    assert settings.data.users is None
    assert settings.loop.name == "2024-01-01"
    assert settings.model.dropout == 0.5
    expected = {"client_lr": 0.001, "local_epochs": 10, "data": "no", "name": "2024-01-01"}
    expected |= {"rounds": 12, "features": "category,clock", "dropout": 0.5}
    assert settings == config.load(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "loop:\n  rounds: 3\n  rounds: 4\n",
            'FILE is not a YAML file: line 3, column 3: found duplicate key "rounds" with value '
            '"4" (original value: "3").',
        ),
        (
            "loop:\n  round: 3\n",
            "unknown key 'round' in section [loop]. Accepted: engine, rounds, clients_per_round, "
            "eval_clients, "
            "stop_metric, patience, min_improvement, seed, threads, device, local_loop, "
            "clients_per_call, name.",
        ),
        ("loop:\n  name: 2024\n", "`name` is 2024, expected a text (in a file, put it in quotes)."),
        ("loop:\n  rounds: 3.5\n", "`rounds` is 3.5, expected a whole number."),
        ("client:\n  client_lr: .inf\n", "`client_lr` is inf, expected a finite number."),
        ("loop: !!bool x\n", "FILE is not a YAML file: 'x'."),
        ("- 1\n", "FILE holds [1], expected sections such as `loop:`."),
        ("loop:\n", "loop is None in the config file, expected a section [loop]."),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, message):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"^{re.escape(message.replace('FILE', str(file)))}$"):
        config.load(config_file=file)


def test_yaml_that_is_none_or_missing(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert config.load(config_file=tmp_path / "empty.yaml") == config.load()
    (tmp_path / "tag.yaml").write_text("loop: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(
        ConfigError, match=r"tag\.yaml is not a YAML file: line 1, column 7: could not determine a"
    ):
        config.load(config_file=tmp_path / "tag.yaml")
    with pytest.raises(
        ConfigError, match=r"^cannot read .*none\.yml: No such file or directory\.$"
    ):
        config.load(config_file=tmp_path / "none.yml")
