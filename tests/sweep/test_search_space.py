"""fedgru/sweep/search_space.py: grids, ranges and what TPE draws from them."""

import math

import pytest
from optuna.trial import TrialState, create_trial

from fedgru.core.errors import ConfigError
from fedgru.sweep import search_space
from fedgru.sweep.search_space import Range

AXES = {"cell": ("gru", "lstm"), "client_lr": Range(1e-4, 1e-1), "hidden_dim": Range(8, 64)}


def finished(axes, points_and_values):
    return [
        create_trial(params=point, distributions=search_space.distributions(axes), value=value)
        for point, value in points_and_values
    ]


def test_a_grid_in_order():
    assert search_space.grid({"seq_len": (4, 8), "cell": ("gru", "lstm")}) == [
        {"seq_len": 4, "cell": "gru"},
        {"seq_len": 4, "cell": "lstm"},
        {"seq_len": 8, "cell": "gru"},
        {"seq_len": 8, "cell": "lstm"},
    ]


def test_edges_hold_each_value_once():
    assert search_space.edges({"cell": ("gru", "lstm"), "dropout": Range(0.0, 0.5)}) == [
        {"cell": "gru", "dropout": 0.0},
        {"cell": "lstm", "dropout": 0.0},
        {"cell": "gru", "dropout": 0.5},
    ]


def test_orders_of_magnitude_are_searched_by_the_logarithm():
    found = search_space.distributions(AXES)
    assert (found["client_lr"].log, found["hidden_dim"].log) == (True, False)  # 64 < 10 * 8
    draws = [search_space.draw(AXES, 0, n, [], "minimize") for n in range(200)]
    # evenly drawn from 1e-4..1e-1, 1 in 10 would lie below 0.01; by the logarithm 2 in 3 do
    assert 110 < sum(d["client_lr"] < 1e-2 for d in draws) < 160
    assert {type(d["hidden_dim"]) for d in draws} == {int}
    assert 8 <= min(d["hidden_dim"] for d in draws) <= max(d["hidden_dim"] for d in draws) <= 64
    assert {d["cell"] for d in draws} == {"gru", "lstm"}


def test_numbers_are_short_and_stay_in_their_range():
    axes = {"client_lr": Range(0.0123401, 0.0123449)}  # four digits of any are 0.01234
    assert search_space.draw(axes, 0, 0, [], "minimize") == {"client_lr": 0.0123401}
    for number in range(20):
        value = search_space.draw(AXES, 0, number, [], "minimize")["client_lr"]
        assert value == float(f"{value:.4g}")


def test_a_draw_depends_on_seed_number_and_history_alone():
    first = search_space.draw(AXES, 0, 3, [], "minimize")
    search_space.draw(AXES, 0, 9, [], "minimize")
    assert search_space.draw(AXES, 0, 3, [], "minimize") == first
    assert search_space.draw(AXES, 0, 4, [], "minimize") != first
    assert search_space.draw(AXES, 1, 3, [], "minimize") != first


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_tpe_goes_where_it_was_good(direction):
    axes = {"client_lr": Range(1e-4, 1e-1)}
    tried = [10 ** (-4 + 3 * i / 19) for i in range(20)]
    sign = 1 if direction == "minimize" else -1
    history = finished(axes, [({"client_lr": lr}, sign * abs(math.log10(lr) + 2)) for lr in tried])
    draws = [search_space.draw(axes, 0, n, history, direction)["client_lr"] for n in range(20, 40)]
    # best at 1e-2; at random a third would lie within half a decade of it
    assert sum(abs(math.log10(lr) + 2) < 0.5 for lr in draws) >= 18


def test_several_processes_spread_out():
    axes = {"client_lr": Range(1e-4, 1e-1)}
    tried = [10 ** (-4 + 3 * i / 19) for i in range(20)]
    history = finished(axes, [({"client_lr": lr}, abs(math.log10(lr) + 2)) for lr in tried])
    running = [
        create_trial(
            state=TrialState.RUNNING,
            params={"client_lr": lr},
            distributions=search_space.distributions(axes),
        )
        for lr in (0.008, 0.009, 0.01, 0.011, 0.012)
    ]

    def near(trials):
        draws = [search_space.draw(axes, 0, n, trials, "minimize") for n in range(25, 45)]
        return sum(0.007 < draw["client_lr"] < 0.013 for draw in draws)

    assert near([*history, *running]) < near(history)


def test_axes_as_json():
    axes = AXES | {"dropout": Range(0.0, 1.0)}
    again = search_space.axes_from_json(search_space.axes_to_json(axes))
    assert again == axes and type(again["dropout"].low) is float


@pytest.mark.parametrize(
    ("name", "text", "values"),
    [
        ("seq_len", "4, 8", ["4", "8"]),
        ("features", "user,venue,clock", ["user,venue,clock"]),
        ("features", "big,small", ["big", "small"]),
        ("agnostic_to", "zone,client", ["zone", "client"]),
        ("agnostic_to", "category-group:Home,Work", ["category-group:Home,Work"]),
    ],
)
def test_values_of_an_option(name, text, values):
    assert search_space.parse_values(name, text) == values


@pytest.mark.parametrize("name", search_space.WHO_IS_SCORED)
def test_who_is_scored_is_not_swept_over(name):
    rest = ["`data`", "`users`", "`min_checkins`", "`session_gap`", "`protocol`", "`target`"]
    rest += ["`asked_at`", "`stop_metric`", "`eval_clients`"]
    rest.remove(f"`{name}`")
    with pytest.raises(ConfigError) as error:
        search_space.check_axes({"seq_len": (4, 8), name: (1, 2)})
    assert str(error.value) == (
        f"cannot sweep over `{name}`: it changes which check-ins are scored, or by what, so the "
        "points could not be compared. Make one sweep for each value. The same holds for "
        f"{', '.join(rest)}."
    )


def test_seeds_and_repeated_values_are_no_axis():
    with pytest.raises(ConfigError) as error:
        search_space.check_axes({"seed": (0, 1)})
    assert str(error.value) == (
        "cannot sweep over `seed`: the luckiest seed is no result. Use `seeds`, which trains every "
        "point with several seeds and compares their means."
    )
    with pytest.raises(ConfigError, match="^`seq_len` names 8 twice.$"):
        search_space.check_axes({"seq_len": (4, 8, 8)})
