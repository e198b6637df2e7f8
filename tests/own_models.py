"""Keras models of one's own for the tests, as `model` names them: tests.own_models:NAME."""

import keras

from fedgru.models.cells import CELLS


def built_in(inputs, cell="gru", table="rows"):
    """The built-in network of 8 units, as somebody outside of fedgru would write it."""
    tensors = inputs.tensors()
    hidden = getattr(keras.layers, CELLS[cell].keras_layer)(
        8,
        recurrent_initializer="glorot_uniform",
        return_sequences=True,
        stateful=True,
        name=table,
    )(inputs.one_hot(tensors))
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes, name="head")(hidden))


def built_in_lstm(inputs):
    return built_in(inputs, "lstm")


def no_table(inputs):
    """The built-in network, all of whose weights are averaged over all clients."""
    return built_in(inputs, table="recurrent")


def looked_up(inputs):
    """A table of embeddings, dropout, two recurrent layers, a named representation."""
    tensors = inputs.tensors()
    rows = keras.layers.Embedding(inputs.num_rows + 1, 6, name="rows")(inputs.table_rows(tensors))
    x = keras.ops.sum(rows, axis=2)
    numbers = [keras.ops.expand_dims(tensors[name], -1) for name in inputs.number_names]
    x = keras.layers.Concatenate()([x, *numbers])
    x = keras.layers.Dropout(0.3)(x)
    x = keras.layers.GRU(7, return_sequences=True, stateful=True, dropout=0.2)(x)
    x = keras.layers.RNN(keras.layers.LSTMCell(5), return_sequences=True, stateful=True)(x)
    x = keras.layers.LayerNormalization(name="hidden")(x)
    x = keras.layers.Dense(9, activation="relu")(x)
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes)(x))


def plain(inputs):
    """A table of embeddings and a recurrent layer, no dropout."""
    tensors = inputs.tensors()
    rows = keras.layers.Embedding(inputs.num_rows + 1, 6, name="rows")(inputs.table_rows(tensors))
    numbers = [keras.ops.expand_dims(tensors[name], -1) for name in inputs.number_names]
    x = keras.layers.Concatenate()([keras.ops.sum(rows, axis=2), *numbers])
    x = keras.layers.GRU(7, return_sequences=True, stateful=True)(x)
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes)(x))


def in_a_row(inputs):
    """A Sequential of one input."""
    (name,) = inputs.id_names
    shape = {"shape": (inputs.seq_len,), "batch_size": inputs.batch_size}
    return keras.Sequential(
        [
            keras.Input(name=name, dtype="int32", **shape),
            keras.layers.Embedding(inputs.sizes[name] + 1, 4, name="rows"),
            keras.layers.LSTM(6, return_sequences=True, stateful=True),
            keras.layers.Dense(inputs.num_classes),
        ]
    )


def memoryless(inputs):
    tensors = inputs.tensors()
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes)(inputs.one_hot(tensors)))


def shrinking(inputs):
    """A penalty moves the rows of ids that a client does not have."""
    tensors = inputs.tensors()
    rows = keras.layers.Embedding(inputs.num_rows + 1, 6, name="rows", embeddings_regularizer="l2")(
        inputs.table_rows(tensors)
    )
    x = keras.layers.GRU(6, return_sequences=True, stateful=True)(keras.ops.sum(rows, axis=2))
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes)(x))


# Those that are refused.


def _with_gru(inputs, **layer):
    tensors = inputs.tensors()
    given = {"return_sequences": True, "stateful": True} | layer
    return tensors, keras.layers.GRU(5, **given)(inputs.one_hot(tensors))


def _scored(inputs, tensors, x, **layer):
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes, **layer)(x))


def raises(inputs):
    return inputs.hidden_units


def raises_inside_keras(inputs):
    tensors = inputs.tensors()
    return keras.layers.GRU(5)(tensors["venue"])


def number(inputs):
    return 3


class Subclass(keras.Model):
    pass


def subclass(inputs):
    return Subclass()


def too_few_scores(inputs):
    tensors, x = _with_gru(inputs)
    return keras.Model(tensors, keras.layers.Dense(inputs.num_classes - 1)(x))


def last_score_alone(inputs):
    return _scored(inputs, *_with_gru(inputs, return_sequences=False))


def two_outputs(inputs):
    tensors, x = _with_gru(inputs)
    return keras.Model(tensors, [keras.layers.Dense(inputs.num_classes)(x), x])


def probabilities(inputs):
    return _scored(inputs, *_with_gru(inputs), activation="softmax")


def not_stateful(inputs):
    return _scored(inputs, *_with_gru(inputs, stateful=False))


def looks_ahead(inputs):
    tensors = inputs.tensors()
    layer = keras.layers.Conv1D(5, 3, padding="same")(inputs.one_hot(tensors))
    return _scored(inputs, tensors, layer)


def looks_back(inputs):
    tensors = inputs.tensors()
    layer = keras.layers.Conv1D(5, 3, padding="causal")(inputs.one_hot(tensors))
    return _scored(inputs, tensors, layer)


def one_input_more(inputs):
    tensors, x = _with_gru(inputs)
    more = keras.Input((inputs.seq_len,), batch_size=inputs.batch_size, name="weather")
    x = keras.layers.Concatenate()([x, keras.ops.expand_dims(more, -1)])
    return _scored(inputs, tensors | {"weather": more}, x)


def one_input_less(inputs):
    tensors = inputs.tensors()
    x = keras.layers.Embedding(inputs.sizes["venue"] + 1, 4)(tensors["venue"])
    x = keras.layers.GRU(5, return_sequences=True, stateful=True)(x)
    return _scored(inputs, {"venue": tensors["venue"]}, x)


class TwoWeights(keras.layers.Layer):
    names = ("shift", "shift")

    def build(self, shape):
        self.shifts = [self.add_weight(name=name, shape=(5,)) for name in self.names]

    def call(self, x):
        return x + sum(keras.ops.convert_to_tensor(shift) for shift in self.shifts)


def same_path_twice(inputs):
    tensors, x = _with_gru(inputs)
    return _scored(inputs, tensors, TwoWeights(name="twice")(x))


KEPT = {}


def shared_between_calls(inputs):
    tensors, x = _with_gru(inputs)
    layer = KEPT.setdefault("layer", keras.layers.Dense(inputs.num_classes))
    return keras.Model(tensors, layer(x))


def table_too_small(inputs):
    return _scored(inputs, *_with_gru(inputs), name="rows")


class Remembers(keras.layers.Layer):
    """Keeps its state as a weight."""

    def build(self, shape):
        self.last = self.add_weight(name="last", shape=(shape[0], shape[-1]), trainable=False)

    def call(self, x):
        y = x + keras.ops.expand_dims(keras.ops.convert_to_tensor(self.last), 1)
        self.last.assign(x[:, -1])
        return y


def state_as_a_weight(inputs):
    tensors, x = _with_gru(inputs)
    return _scored(inputs, tensors, Remembers(name="remembers")(x))


class Counter(keras.layers.Layer):
    def build(self, shape):
        self.count = self.add_weight(name="count", shape=(), dtype="int32", trainable=False)

    def call(self, x):
        return x


def whole_number(inputs):
    tensors, x = _with_gru(inputs)
    return _scored(inputs, tensors, Counter(name="counter")(x))


def no_representation(inputs):
    tensors, x = _with_gru(inputs)
    a, b = (keras.layers.Dense(inputs.num_classes)(x) for _ in range(2))
    return keras.Model(tensors, keras.layers.Add()([a, b]))


def flat_representation(inputs):
    tensors, x = _with_gru(inputs)
    hidden = keras.layers.Lambda(lambda y: y[:, 0], name="hidden")(x)
    x = keras.layers.Dense(inputs.num_classes)(x) + keras.ops.sum(hidden)
    return keras.Model(tensors, x)


def reserved_name(inputs):
    tensors, x = _with_gru(inputs)
    return _scored(inputs, tensors, keras.layers.Dense(4, name="protected_part")(x))


def not_finite(inputs):
    tensors, x = _with_gru(inputs)
    return _scored(inputs, tensors, keras.ops.log(x - 10.0))


class Hides(keras.layers.Layer):
    """A recurrent layer that nothing outside of it sees."""

    def __init__(self, **given):
        super().__init__(**given)
        self.inside = keras.layers.GRU(5, return_sequences=True, stateful=True)

    def build(self, shape):
        self.inside.build(shape)

    def call(self, x):
        return self.inside(x)

    def compute_output_shape(self, shape):
        return (*shape[:2], 5)


def hidden_state(inputs):
    tensors = inputs.tensors()
    return _scored(inputs, tensors, Hides(name="hides")(inputs.one_hot(tensors)))
