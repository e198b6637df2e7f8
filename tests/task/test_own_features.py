"""Features of one's own: what the function is given, what it may give, and where it goes."""

import numpy as np
import pytest

from fedgru import config
from fedgru.checks import checks
from fedgru.core.errors import ConfigError, RunError
from fedgru.data import datasets, synthetic
from fedgru.deploy.app import check_deployable
from fedgru.predict.predictor import Stream
from fedgru.predict.schema import CheckIn, Schema
from fedgru.task import stored
from fedgru.task.own_features import ClientCheckIns, OwnFeature
from fedgru.workflows import open as open_workflow
from fedgru.workflows import reopen as reopen_workflow
from tests import own_features
from tests.checks.test_checks import make_run
from tests.conftest import make_check_ins

HERE = "tests.own_features"


def test_what_the_function_is_given():
    check_ins = make_check_ins(
        ["a", "b", "a"], ["Home", "Work", None], ["h", "w", "x"], offset_min=[0, 0, -60]
    )
    given = ClientCheckIns.of(check_ins, np.array([0, 2]), "a")
    assert (given.user, given.venue.tolist()) == ("a", ["h", "x"])
    assert given.category.tolist() == ["Home", None]
    assert given.raw_category.tolist() == ["raw-Home", None]
    assert given.time_s.tolist() == [0, 7200]
    assert given.local_time_s.tolist() == [0, 3600]
    assert given.lat_deg.tolist() == [40.7, 40.7] and given.lon_deg.tolist() == [-74.0, -74.0]
    assert len(given) == 2 and given.first(1).venue.tolist() == ["h"]


def test_numbers_by_hand(make_task):
    task = make_task(features=f"venue,{HERE}:late_and_home,clock,{HERE}:visits_before")
    inputs, clients, check_ins = task.inputs, task.clients, task.check_ins
    assert inputs.number_names == (
        *("late_and_home_1", "late_and_home_2", "clock_sin", "clock_cos", "visits_before"),
    )
    assert task.spec.num_numbers == 5
    expected = []
    for client in range(len(clients)):
        venues = check_ins.venue.codes[clients.rows[slice(*clients.starts[client : client + 2])]]
        expected += [int((venues[:i] == venue).sum()) for i, venue in enumerate(venues)]
    expected = np.array(expected, float)
    train = expected[clients.in_split("train")]
    np.testing.assert_allclose(
        inputs.numbers[:, 4], (expected - train.mean()) / train.std(), atol=1e-6
    )
    raw = make_task(features=f"{HERE}:visits_before", scaling="none").inputs
    np.testing.assert_array_equal(raw.numbers[:, 0], expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "raises",
            "cannot be computed for client 6: AttributeError: 'ClientCheckIns' object has no "
            "attribute 'weather' (own_features.py, line 27).",
        ),
        (
            "too_few",
            "gives an array of shape [52] for the 53 check-ins of client 6, expected [53] or "
            "[53, width].",
        ),
        (
            "three_axes",
            "gives an array of shape [53, 1, 1] for the 53 check-ins of client 6, expected [53] or "
            "[53, width].",
        ),
        (
            "no_column",
            "gives an array of shape [53, 0] for the 53 check-ins of client 6, expected [53] or "
            "[53, width].",
        ),
        ("texts", "gives object for client 6, expected numbers."),
        (
            "nan",
            "gives a number that is not finite at check-in 4 of client 6. Let it give one for "
            "every check-in, such as 0 where a value is missing.",
        ),
        (
            "another_width",
            "gives 2 numbers a check-in for client 2, but 1 for client 6: give every client the "
            "same.",
        ),
        (
            "share_over",
            "at check-in 2 of client 6 changes when the check-ins after number 26 are left out: "
            "compute it from that check-in and those before it alone.",
        ),
        ("number", "is an int, expected a function that takes a client's check-ins."),
        (
            "gap",
            "gives an input called gap, as gap does. Give the function another name.",
        ),
    ],
)
def test_what_is_refused(make_task, name, message):
    with pytest.raises(ConfigError) as error:
        make_task(features=f"category,{HERE}:{name}")
    assert str(error.value) == f"`features` {HERE}:{name} {message}"


def test_two_features_of_one_name(make_task, tmp_path, monkeypatch):
    (tmp_path / "far_features.py").write_text("from tests.own_features import visits_before\n")
    monkeypatch.syspath_prepend(tmp_path)
    names = f"{HERE}:visits_before,far_features:visits_before"
    with pytest.raises(ConfigError, match="an input called visits_before, as tests.own_features"):
        make_task(features=names)


def test_by_the_name_of_an_entry_point(make_task, tmp_path, monkeypatch):
    info = tmp_path / "far_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far-package\nVersion: 1.0\n")
    lines = ["[fedgru.features]", f"times-before = {HERE}:visits_before"]
    lines += ["[fedgru.models]", "small-gru = tests.own_models:plain"]
    (info / "entry_points.txt").write_text("\n".join([*lines, ""]))
    monkeypatch.syspath_prepend(tmp_path)
    found = make_task(features="venue,times-before").inputs
    expected = make_task(features=f"venue,{HERE}:visits_before").inputs
    assert found.number_names == ("times_before",)
    np.testing.assert_array_equal(found.numbers, expected.numbers)
    with pytest.raises(ConfigError, match="gap, times-before, or MODULE:FUNCTION of your own"):
        config.load({"features": "venue,time-before"})
    modelled = make_task(
        **{"features": "venue,times-before", "model": "small-gru", "engine": "reference"},
        **{"hidden_dim": 256, "dropout": 0.3},
    )
    assert modelled.spec.inputs.number_names == ("times_before",)
    assert modelled.spec.hidden_dim == 7


def test_scaling_has_an_effect_on_it_and_clock_none():
    config.load({"features": f"venue,{HERE}:visits_before", "scaling": "none"})
    with pytest.raises(ConfigError, match="`clock` has no effect"):
        config.load({"features": f"venue,{HERE}:visits_before", "clock": "utc"})


def test_a_stream_gives_what_the_task_has(make_task):
    task = make_task(features=f"{HERE}:visits_before,category,{HERE}:late_and_home")
    schema = Schema.from_dict(Schema.of(task, {}).to_dict())
    stream = Stream.start(schema)
    check_ins = [CheckIn("7", venue, 3600 * i) for i, venue in enumerate("abba")]
    found = []
    for one in check_ins:
        stream = stream.push(one)
        found.append(stream.inputs()["visits_before"].item())
    scale = task.inputs.scales["visits_before"]
    expected = (np.array([0, 0, 1, 1]) - scale.mean) / scale.deviation
    assert found == pytest.approx(expected, abs=1e-6)
    _, _, numbers = Stream.start(schema).push(check_ins[0]).extend(check_ins[1:])
    assert numbers[:, 0] == pytest.approx(expected[1:], abs=1e-6)
    assert len(stream.past) == 4
    plain = Stream.start(Schema.of(make_task(features="category"), {})).push(check_ins[0])
    assert plain.past == ()  # nothing needs them


def test_check_finds_one_that_knows_the_future(tiny_data_set, tmp_path, monkeypatch):
    clean = {"features": f"category,{HERE}:visits_before,{HERE}:late_and_home", "users": 6}
    leaking = {"features": f"category,{HERE}:leaks_for_client_3", "users": 6}
    found = []
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)
    for overrides in (clean, leaking):
        run = make_run(tiny_data_set, tmp_path, prior="none", **overrides)
        findings = checks.check_run(run, "data")
        found.append({f.name: f.why for f in findings if f.status == checks.PROBLEM})
    assert found[0] == {}
    assert "a number changes with the target or with later" in found[1]["training targets"]
    assert "(client 3)" in found[1]["training targets"]


def test_a_run_whose_feature_has_changed_is_refused(tiny_data_set, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)
    run = make_run(tiny_data_set, tmp_path, features=f"category,{HERE}:visits_before", rounds=1)
    mean = run.facts()["own_features"]["visits_before"]["mean"]
    assert mean == reopen_workflow.rebuild_task(run, "data").inputs.scales["visits_before"].mean
    monkeypatch.setattr(own_features, "visits_before", own_features.gap)
    with pytest.raises(RunError) as error:
        reopen_workflow.rebuild_task(run, "data")
    assert str(error.value) == (
        f"{run.path} was trained with another version of the feature visits_before: what it gives "
        "has changed. Restore that version, or train again."
    )


def test_a_deployment_does_not_import_it():
    with pytest.raises(ConfigError) as error:
        check_deployable(config.load({"features": f"category,{HERE}:visits_before"}))
    assert str(error.value) == (
        f"`features` {HERE}:visits_before is of your own, and a client of a deployment runs "
        "fedgru's code alone. Leave it out."
    )


def test_a_large_data_set_is_prepared_again_for_other_code(tmp_path, monkeypatch):
    cities = synthetic.CityConfig(num_users=9, checkins_per_user=30, seed=3)
    datasets.save_city("town", tmp_path, synthetic.make_city(cities))
    (tmp_path / "far_feature.py").write_text("def twice(c):\n    return 2 * c.lat_deg\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"data": "town", "features": "venue,far_feature:twice", "hidden_dim": 8}
    small, _ = open_workflow.open_task(config.load(settings), tmp_path)
    monkeypatch.setattr(datasets, "MAPPED_FROM", 1)
    monkeypatch.setattr(stored, "FEW_VALUES", 3)
    for _ in range(2):
        large, _ = open_workflow.open_task(config.load(settings), tmp_path)
        np.testing.assert_array_equal(large.inputs.numbers, small.inputs.numbers)
        assert large.inputs.own_widths == {"far_feature:twice": 1}
    assert len(list((tmp_path / "town/prepared").iterdir())) == 1
    with open(tmp_path / "far_feature.py", "a") as file:
        file.write("\n# changed\n")
    assert OwnFeature.find("far_feature:twice").digest()
    open_workflow.open_task(config.load(settings), tmp_path)
    assert len(list((tmp_path / "town/prepared").iterdir())) == 2
