"""fedgru/models/own.py and own_keras.py: a Keras model of one's own is opened, checked, named."""

import json
from dataclasses import replace

import numpy as np
import pytest

from fedgru.core.errors import ConfigError
from fedgru.models.gru import ModelSpec
from fedgru.models.own import OwnSpec, spec_from_dict, spec_to_dict
from fedgru.models.own_inputs import ModelInputs
from fedgru.models.own_keras import open_own

INPUTS = ModelInputs((("user", 3), ("venue", 4)), ("gap",), num_classes=5, batch_size=2, seq_len=4)


def opened(name, inputs=INPUTS):
    return open_own(f"tests.own_models:{name}", inputs)


def test_names_do_not_depend_on_what_was_built_before():
    own = opened("looked_up")
    expected = [
        "rows/embeddings",
        "gru/gru_cell/kernel",
        "gru/gru_cell/recurrent_kernel",
        "gru/gru_cell/bias",
        "rnn/lstm_cell/kernel",
        "rnn/lstm_cell/recurrent_kernel",
        "rnn/lstm_cell/bias",
        "hidden/gamma",
        "hidden/beta",
        "dense/kernel",
        "dense/bias",
        "dense_1/kernel",
        "dense_1/bias",
    ]
    assert own.weight_names == expected
    # Keras has gone on counting its layers
    again = opened("looked_up", replace(INPUTS, batch_size=3))
    assert again is not own and again.weight_names == expected
    assert (own.hidden_dim, own.num_rows, own.carries_state) == (5, 7, True)
    assert own.represents == "the output of the layer hidden"


def test_the_table_is_the_first_rows_of_the_layer_rows():
    own = opened("looked_up")
    weights = own.init_weights(3)
    assert weights["rows"].shape == (7, 6)  # 3 users and 4 venues
    assert weights["rows/embeddings"].shape == (1, 6)  # that of unknown ids
    model = own.build(None, None, output="hidden")
    own.set_weights(model, {name: array + 1 for name, array in weights.items()})
    for name, array in own.get_weights(model, 7).items():
        np.testing.assert_array_equal(array, weights[name] + 1)
    (embeddings,) = (v for v in model.weights if v.path.endswith("embeddings"))
    np.testing.assert_array_equal(embeddings[:7], weights["rows"] + 1)


def test_without_that_layer_the_table_is_empty():
    own = opened("no_table")
    weights = own.init_weights(3)
    assert own.num_rows == 0 and weights["rows"].shape == (0, 1)
    assert weights["recurrent/gru_cell/kernel"].shape == (8, 24)  # 7 rows, and the gap


def test_start_weights_are_drawn_by_the_seed():
    own = opened("looked_up")
    first, other = own.init_weights(3), own.init_weights(4)
    again = opened("looked_up", replace(INPUTS, batch_size=5)).init_weights(3)
    assert list(first) == list(again) == ["rows", *own.weight_names]
    for name, array in first.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, again[name])
    assert (first["rows"] != other["rows"]).all()


def test_table_rows_of_ids_by_hand():
    # user 2 of 3 is row 1; venue 4 of 4 is row 3 + 3; unknown is row 7 of 7
    import keras

    tensors = INPUTS.tensors()
    model = keras.Model(tensors, [INPUTS.table_rows(tensors), INPUTS.one_hot(tensors)])
    ids = {"user": [[2, 0, 1, 3]] * 2, "venue": [[4, 1, 0, 2]] * 2, "gap": [[0.5, 1, 2, 3]] * 2}
    rows, joined = model({name: np.array(value) for name, value in ids.items()})
    assert np.array(rows)[0].tolist() == [[1, 6], [7, 3], [0, 7], [2, 4]]
    assert np.array(joined)[1, :2].tolist() == [
        [0, 1, 0, 0, 0, 0, 1, 0.5],
        [0, 0, 0, 1, 0, 0, 0, 1],
    ]


def test_a_sequential_of_one_input():
    own = opened("in_a_row", replace(INPUTS, ids=(("venue", 4),), number_names=()))
    assert (own.num_rows, own.hidden_dim) == (4, 6)
    assert own.represents == "the input of the layer that gives the scores"


def test_a_model_without_memory_is_known_as_one():
    assert not opened("memoryless").carries_state


def test_a_stream_is_carried_on_from_what_it_carries():
    own = opened("looked_up")
    weights = own.init_weights(1)
    draw = np.random.default_rng(0)
    rows = np.stack([draw.integers(-1, 3, 6), draw.integers(3, 7, 6)], 1).astype(np.int32)
    numbers = draw.standard_normal((6, 1)).astype(np.float32)
    whole = own.advance(weights, rows, numbers, own.start())
    begun = own.advance(weights, rows[:2], numbers[:2], own.start())
    own.advance(weights, rows[3:], numbers[3:], own.start())  # somebody else's
    rest = own.advance(weights, rows[2:], numbers[2:], begun)
    assert [array.shape for array in whole] == [(1, 5 + 5), (1, 7), (1, 5), (1, 5)]
    for expected, found in zip(whole, rest, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
    # all at once, by the model that evaluates
    model = own.build(None, None, 1, 6, output="hidden")
    own.set_weights(model, weights)
    states = model.predict_on_batch(own.feed(None, rows[None], numbers[None]))
    np.testing.assert_allclose(states[0, -1], whole[0][0], atol=1e-6)


def test_a_spec_goes_through_json_without_its_model():
    spec = OwnSpec.of("tests.own_models:looked_up", INPUTS, has_prior=True)
    assert (spec.num_rows, spec.hidden_dim, spec.states_dim) == (7, 5, 10)
    again = spec_from_dict(json.loads(json.dumps(spec_to_dict(spec))))
    assert again == spec and again.own is spec.own
    plain = ModelSpec("gru", 7, 1, 8, 5, 0.3, True)
    assert spec_from_dict(json.loads(json.dumps(spec_to_dict(plain)))) == plain


def test_scores_and_representation_side_by_side():
    spec = OwnSpec.of("tests.own_models:looked_up", INPUTS, has_prior=True)
    states = np.arange(20, dtype=np.float32).reshape(2, 10)
    assert spec.representation(states).tolist() == [[0, 1, 2, 3, 4], [10, 11, 12, 13, 14]]
    weights = {"prior_scale": np.float32(2)}
    scores = spec.logits(weights, states, np.full((2, 5), 3, np.float32))
    assert scores.tolist() == [[11, 12, 13, 14, 15], [21, 22, 23, 24, 25]]
    assert spec.logits(weights, states).tolist() == [[5, 6, 7, 8, 9], [15, 16, 17, 18, 19]]


REFUSED = {
    "raises": "cannot be built: AttributeError: 'ModelInputs' object has no attribute "
    "'hidden_units' (own_models.py, line *)",
    "raises_inside_keras": "cannot be built: ValueError: *own_models.py, line *)",
    "number": "cannot be used: it returns an int, expected a keras.Model",
    "subclass": "cannot be used: its layers cannot be seen: return keras.Model(inputs, outputs), "
    "no subclass of keras.Model",
    "too_few_scores": "cannot be used: its output has the shape [1, 4, 4], expected [1, 4, 5]: "
    "batch_size, seq_len, and a score for each of the 5 classes (num_classes)",
    "last_score_alone": "cannot be used: its output has the shape [1, 5], expected [1, 4, 5]: "
    "batch_size, seq_len, and a score for each of the 5 classes (num_classes)",
    "two_outputs": "cannot be used: it has 2 outputs, expected one, the scores",
    "probabilities": "cannot be used: it gives probabilities, expected scores (logits): leave the "
    "softmax out",
    "not_stateful": "cannot be used: one check-in in a call gives other scores than several: what "
    "it knows of the past must be carried from call to call. Use recurrent layers with "
    "stateful=True",
    "looks_back": "cannot be used: one check-in in a call gives other scores than several: what it "
    "knows of the past must be carried from call to call. Use recurrent layers with stateful=True",
    "looks_ahead": "cannot be used: its scores depend on later check-ins, which are what it has to "
    "predict: let each layer read only the past (no Bidirectional, causal padding, causal "
    "attention)",
    "one_input_more": "cannot be used: it takes the inputs gap, user, venue, weather, but "
    "`features` gives gap, user, venue: use the tensors of inputs.tensors(), and leave out of "
    "`features` what the model does not read",
    "one_input_less": "cannot be used: it takes the inputs venue, but `features` gives gap, "
    "user, venue: use the tensors of inputs.tensors(), and leave out of `features` what the model "
    "does not read",
    "same_path_twice": "cannot be used: two of its weights have the same path, twice/shift: give "
    "their layers, or the weights, names of their own",
    "shared_between_calls": "cannot be used: two calls return models that share weights: make all "
    "layers inside the function",
    "table_too_small": "cannot be used: its layer rows has the shape [5, 5], expected at least 7 "
    "rows first, one for each known id (inputs.num_rows)",
    "state_as_a_weight": "cannot be used: its weights depend on batch_size or seq_len "
    "(remembers/last): a state belongs into a recurrent layer with stateful=True",
    "whole_number": "cannot be used: counter/count is int32, expected float32",
    "no_representation": "cannot be used: it does not say what its representation is, which the "
    "leakage probe reads: let a Dense layer give the scores, or call the layer whose output it is "
    "hidden",
    "flat_representation": "cannot be used: its representation, the output of the layer hidden, "
    "has the shape [1, 5], expected batch_size, seq_len and any number of columns",
    "reserved_name": "cannot be used: a layer is called protected_part, a name that fedgru uses: "
    "choose another one",
    "not_finite": "cannot be used: its scores are not finite",
    "hidden_state": "cannot be used: a reset does not bring back its first state: a layer that "
    "carries one must be a layer of the model itself, with reset_state",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    with pytest.raises(ConfigError) as error:
        opened(name)
    text, expected = str(error.value), f"`model` tests.own_models:{name} {REFUSED[name]}."
    if "*" in expected:
        parts = expected.split("*")
        assert text.startswith(parts[0]) and text.endswith(parts[-1])
        assert all(part in text for part in parts)
    else:
        assert text == expected


def test_what_is_no_function():
    with pytest.raises(ConfigError) as error:
        open_own("tests.own_models:KEPT", INPUTS)
    assert str(error.value) == (
        "`model` tests.own_models:KEPT is a dict, expected a function that returns a keras.Model."
    )


def test_keras_on_jax_is_refused(monkeypatch):
    monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    with pytest.raises(ConfigError) as error:
        open_own("tests.own_models:memoryless", replace(INPUTS, batch_size=7))
    assert str(error.value) == (
        "`model` needs Keras on TensorFlow, but KERAS_BACKEND is jax. Unset KERAS_BACKEND."
    )
