"""fedgru/config/settings.py: precedence, checks, and writing what can be read back."""

import pytest

from fedgru import config
from fedgru.core.errors import ConfigError


def message_of(**sources):
    with pytest.raises(ConfigError) as error:
        config.load(**sources)
    return str(error.value)


def test_precedence(tmp_path):
    file = tmp_path / "own.toml"
    file.write_text("[client]\nclient_lr = 0.5\nlocal_epochs = 9\n[loop]\nrounds = 2\n")
    settings = config.load({"client_lr": 0.25}, config_file=file, preset="notebook")
    assert settings.client.client_lr == 0.25  # command line over file (0.5) over preset (0.002)
    assert settings.loop.rounds == 2  # file over preset (10)
    assert settings.inputs.clock == "utc"  # preset over default (local)
    assert settings.model.cell == "gru"  # default


def test_dump_is_read_back_to_the_same_settings(tmp_path):
    settings = config.load({"users": 7, "server_optimizer": "momentum", "server_momentum": 0.5})
    file = tmp_path / "config.toml"
    file.write_text(config.dump(settings))
    assert config.load(config_file=file) == settings
    assert settings != config.load()


def test_the_notebook_preset_is_the_notebook():
    settings = config.load(preset="notebook")
    assert (settings.loop.rounds, settings.loop.patience) == (10, 0)  # it ran all ten
    assert settings.data.users == 100
    assert settings.inputs.model_dump() == {
        "features": "big",
        "target": "category",
        "prior": "none",
        "clock": "utc",
        "vocabulary": "range",
        "asked_at": False,
        "scaling": "none",
    }
    assert settings.layout.model_dump() == {"layout": "chunks", "batch_size": 16, "seq_len": 16}
    assert settings.model.model_dump(exclude_none=True) == {
        "head": "dense",
        "cell": "gru",
        "hidden_dim": 256,
        "dropout": 0.3,
    }
    assert settings.client.model_dump() == {
        "client_optimizer": "adam",
        "client_lr": 0.002,
        "local_epochs": 4,
        "prox_mu": 0.0,
    }
    assert settings.server.server_optimizer == "adam" and settings.server.server_lr == 0.06
    assert settings.server.mean == "clients"
    assert settings.loop.rounds == 10


@pytest.mark.parametrize(
    "overrides",
    [{"features": f} for f in ("small", "category", "venue", "user,gap")] + [{"patience": 0}],
)
def test_every_run_can_be_repeated_from_what_it_wrote(tmp_path, overrides):
    # what is written holds the defaults too, also of settings that have no effect
    settings = config.load(overrides)
    file = tmp_path / "config.toml"
    file.write_text(config.dump(settings))
    assert config.load(config_file=file) == settings


def test_no_name_occurs_in_two_sections():
    sections = config.Settings.model_fields.values()
    assert len(config.fields()) == sum(len(s.annotation.model_fields) for s in sections)


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"client_lr": -1.0}, "`client_lr` is -1.0, expected a number above 0."),
        ({"rounds": 0}, "`rounds` is 0, expected at least 1."),
        ({"dropout": 1.0}, "`dropout` is 1.0, expected a number below 1."),
        ({"min_checkins": 2}, "`min_checkins` is 2, expected at least 3."),
        (
            {"server_momentum": 0.9},
            "`server_momentum` has no effect with `server_optimizer` adam. Use `server_optimizer` "
            "momentum, or leave it out.",
        ),
        (
            {"features": "category", "clock": "utc"},
            "`clock` has no effect: `features` category holds none of clock, day, month, weekday.",
        ),
        (
            {"features": "small", "scaling": "none"},
            "`scaling` has no effect: `features` small holds none of latitude, longitude, gap.",
        ),
        (
            {"features": "clock", "vocabulary": "range"},
            "`vocabulary` has no effect: `features` clock holds none of user, category, venue, "
            "raw_category.",
        ),
        ({"asked_at": 3}, "`asked_at` is 3, expected true or false."),
        (
            {"asked_at": True, "prior": "markov"},
            "`prior` markov counts without the time, which `asked_at` makes known. Use `prior` "
            "kernel or backoff, or none.",
        ),
        ({"client_lr": float("inf")}, "`client_lr` is inf, expected a finite number."),
        (
            {"patience": 0, "min_improvement": 0.1},
            "`min_improvement` has no effect with `patience` 0 (never stop early).",
        ),
        (
            {"train_users": 3},
            "`train_users` has no effect without `users`, the number of users who are scored: all "
            "train. Give `users`, or leave it out.",
        ),
        (
            {"users": 3, "train_users": 2},
            "`train_users` is 2, but the 3 of `users`, who are scored, train too: give 3 or more, "
            "or all.",
        ),
        (
            {"users": 3, "train_users": 0},
            "`train_users` is 0, expected a whole number of at least 1, or all.",
        ),
        (
            {"users": 3, "train_users": True},
            "`train_users` is True, expected a whole number of at least 1, or all.",
        ),
        (
            {"users": 3, "train_users": "most"},
            "`train_users` is most, expected a whole number of at least 1, or all.",
        ),
        (
            {"name": "../x"},
            "`name` is '../x', expected letters, digits, dots, dashes and underscores.",
        ),
    ],
)
def test_bad_settings(overrides, message):
    assert message_of(overrides=overrides) == message


@pytest.mark.parametrize("value", [100, 101, "all"])
def test_train_users_from_a_file_and_written_again(tmp_path, value):
    shown = f'"{value}"' if value == "all" else value
    (tmp_path / "mine.toml").write_text(f"[data]\nusers = 100\ntrain_users = {shown}\n")
    settings = config.load(config_file=tmp_path / "mine.toml")
    assert settings.data.train_users == value
    (tmp_path / "again.toml").write_text(config.dump(settings))
    assert config.load(config_file=tmp_path / "again.toml") == settings
    (tmp_path / "mine.yaml").write_text(f"data:\n  users: 100\n  train_users: {value}\n")
    assert config.load(config_file=tmp_path / "mine.yaml") == settings


@pytest.mark.parametrize(
    "text, message",
    [
        (
            "[lop]\nrounds = 2",
            "unknown section [lop] in the config file. Accepted: data, inputs, layout, model, "
            "client, server, algorithm, agnostic, faults, availability, privacy, loop, ray.",
        ),
        (
            "[client]\nlr = 2",
            "unknown key 'lr' in section [client]. Accepted: client_optimizer, client_lr, "
            "local_epochs, prox_mu.",
        ),
        ('data = "x"', "data is 'x' in the config file, expected a section [data]."),
        ("loop = 3", "loop is 3 in the config file, expected a section [loop]."),
        ('[loop]\nrounds = "3"', "`rounds` is 3, expected a whole number."),
        ("[data]\nusers = true", "`users` is True, expected a whole number of at least 1, or all."),
        ("[model]\ncell = 'rnn'", "`cell` is rnn, expected gru or lstm."),
        (
            "[loop]\nrounds = 0\n[client]\nlocal_epochs = 0",
            "`local_epochs` is 0, expected at least 1.\n`rounds` is 0, expected at least 1.",
        ),
    ],
)
def test_bad_files(tmp_path, text, message):
    file = tmp_path / "bad.toml"
    file.write_text(text)
    assert message_of(config_file=file) == message


def test_a_file_that_is_not_there_or_not_toml(tmp_path):
    missing = tmp_path / "missing.toml"
    assert message_of(config_file=missing) == (f"cannot read {missing}: No such file or directory.")
    garbled = tmp_path / "garbled.toml"
    garbled.write_text("rounds 3")
    assert message_of(config_file=garbled).startswith(f"{garbled} is not a TOML file: ")


def test_decorrelate_is_for_images():
    message = message_of(overrides={"agnostic_to": "zone", "method": "hsic+decorrelate"})
    assert message == (
        "`method` hsic+decorrelate draws examples so that target and concept are independent. "
        "Check-ins are read in order, so they cannot be drawn. Leave decorrelate out."
    )
