"""A Keras model of one's own, opened and checked, for the reference engine and for export.

It has the functions of `fedgru.models.keras_gru`, so that both are trained by the same code.
"""

import os
import re
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from fedgru.core import plugins
from fedgru.core.errors import ConfigError
from fedgru.core.types import AnyArray, Floats, Weights
from fedgru.models import keras_gru, keras_heads
from fedgru.models.cells import Arrays
from fedgru.models.heads import PREFIX
from fedgru.models.own_inputs import GROUP, ModelInputs

TABLE, HIDDEN = "rows", "hidden"  # names of layers that have a meaning
RESERVED = ("log_prior", "prior_scale", "scores", "share", "reversal", "probabilities", "states")
TOLERANCE = 1e-4  # of scores that are computed in two ways, as a share of the largest


class OwnModel:
    """A model of one's own. It is checked by running it, with weights drawn for that purpose.

    Args:
        name: value of the setting `model`.
        function: what it names; called with a ModelInputs, it returns a keras.Model.
        inputs: ModelInputs of the run's layout.

    Attributes:
        hidden_dim: columns of the representation: the output of the layer called "hidden" if
            there is one, else the input of the Dense layer that gives the scores.
        represents: where the representation comes from, in words.
        weight_names: names of the weights, in the order of the Keras model.
        shapes: their shapes.
        num_rows: rows of the table, 0 without one.
        carries_state: whether a check-in changes the scores after later ones.
        outputs: float32 [4], what it computes, to see whether it has changed.

    Raises:
        ConfigError: if the function raises; if it returns no functional Keras model from the
            inputs to [batch_size, seq_len, num_classes] scores; if the model looks ahead, does
            not carry or not reset its state, or has no representation; if its weights have no
            names of their own.
    """

    def __init__(self, name: str, function: Callable[..., Any], inputs: ModelInputs) -> None:
        self.name, self._function, self._inputs = name, function, inputs
        self._bases: Any = weakref.WeakKeyDictionary()  # model from `build` -> the function's own
        self._started: dict[int, Weights] = {}
        self._lock = threading.Lock()
        # of another batch size, so that a weight whose shape depends on it is seen
        whole = self._base(1, max(inputs.seq_len, 2))
        single = self._base(2, 1)
        representation, self.represents = self._representation(whole)
        self.hidden_dim = int(representation.shape[-1])
        self.shapes = self._shapes(whole, single)
        self.weight_names = self._name_weights(whole, single)
        self._table = self._find_table(whole)
        self.num_rows = 0 if self._table is None else inputs.num_rows
        try:
            self.outputs, self.carries_state = self._run_both(whole, single)
        except ConfigError:
            raise
        except Exception as error:
            raise self._refused(f"it cannot be run: {plugins.where_raised(error)}") from error

    def init_weights(self, seed: int) -> Weights:
        """Return the weights of a new model, name -> float32 array; the same for the same seed."""
        import keras

        if seed not in self._started:
            keras.utils.set_random_seed(seed)
            self._started[seed] = self._named(self._base(1, 1))
        return dict(self._started[seed])

    def build(
        self,
        spec: Any,
        inputs: Any,
        batch_size: int = 1,
        seq_len: int = 1,
        output: str = "probabilities",
        protected: tuple[tuple[int, ...], int] | None = None,
        represents: Collection[str] = (),
    ) -> Any:
        """Build the Keras model, see `keras_gru.build`.

        With output "hidden" it gives float32 [batch, seq_len, hidden_dim + num_classes]: the
        representation, and the scores without the prior.
        """
        import keras

        base = self._base(batch_size, seq_len)
        arguments = {tensor.name: tensor for tensor in base.inputs}
        hidden, scores = self._representation(base)[0], base.outputs[0]
        if output == "hidden":
            model = keras.Model(
                arguments, keras.layers.Concatenate(name="states")([hidden, scores])
            )
        else:
            if spec.has_prior:
                scores = keras_gru.add_prior(spec, scores, arguments, batch_size, seq_len)
            outputs = scores
            if protected is not None:
                scores = keras_heads.scale_gradient("share")(scores)
                head = keras_heads.add_head(hidden, *protected)
                outputs = {"scores": scores, "protected": head}
            elif output == "probabilities":
                outputs = keras.layers.Softmax(name="probabilities")(scores)
            model = keras.Model(arguments, outputs)
        self._bases[model] = base
        return model

    def set_weights(self, model: Any, weights: Weights) -> None:
        """Set the weights of a model from `build`."""
        arrays = [weights[name] for name in self.weight_names]
        if self._table is not None:
            arrays[self._table] = np.concatenate([weights["rows"], arrays[self._table]])
        for variable, array in zip(self._bases[model].weights, arrays, strict=True):
            variable.assign(array)
        layers = {layer.name: layer for layer in model.layers}
        if "prior_scale" in layers:
            layers["prior_scale"].set_weights([np.reshape(weights["prior_scale"], (1, 1))])
        for name, layer in keras_heads.head_layers(model).items():
            layer.set_weights([weights[f"{name}_kernel"], weights[f"{name}_bias"]])

    def get_weights(self, model: Any, num_rows: int) -> Weights:
        """Return the weights of a model from `build`, name -> float32 array."""
        weights = self._named(self._bases[model])
        if any(layer.name == "prior_scale" for layer in model.layers):
            weights["prior_scale"] = model.get_layer("prior_scale").get_weights()[0].reshape(())
        for name, layer in keras_heads.head_layers(model).items():
            weights[f"{name}_kernel"], weights[f"{name}_bias"] = layer.get_weights()
        return weights

    def feed(
        self, inputs: Any, rows: AnyArray, numbers: AnyArray, log_prior: AnyArray | None = None
    ) -> dict[str, AnyArray]:
        """See `keras_gru.feed`."""
        return keras_gru.feed(self._inputs, rows, numbers, log_prior)

    def reset_state(self, model: Any) -> None:
        """Set the state of a model from `build` to zero."""
        _reset(self._bases[model])

    def start(self) -> Arrays:
        """Return what `advance` carries before the first check-in, a tuple of float32 arrays."""
        base = self._bases[self._single]
        zeros = [np.zeros(variable.shape, np.float32) for variable in _states(base)]
        return (np.zeros((1, self.hidden_dim + self._inputs.num_classes), np.float32), *zeros)

    def advance(self, weights: Weights, rows: AnyArray, numbers: AnyArray, state: Arrays) -> Arrays:
        """Run over some check-ins of one stream.

        Args:
            weights: name -> float32 array.
            rows: int32 [n, num_id_features], table rows; -1 unknown.
            numbers: float32 [n, num_numbers].
            state: from `start`, or from here.

        Returns:
            Tuple of float32 arrays: [1, hidden_dim + num_classes], representation and scores
            without the prior after the last check-in; then all that the layers carry.
        """
        import keras

        with self._lock:  # the layers hold the state
            model, base = self._single, self._bases[self._single]
            self.set_weights(model, weights)
            for variable, value in zip(_states(base), state[1:], strict=True):
                variable.assign(value)
            found = state[0]
            for at in range(len(rows)):
                fed = self.feed(None, rows[None, at : at + 1], numbers[None, at : at + 1])
                found = model.predict_on_batch(fed)[0]
            return (found, *(keras.ops.convert_to_numpy(variable) for variable in _states(base)))

    @property
    def _single(self) -> Any:
        """The model of output "hidden", one stream, one check-in a call."""
        if not hasattr(self, "_kept_single"):
            self._kept_single = self.build(None, None, output="hidden")
        return self._kept_single

    def describe(self) -> dict[str, Any]:
        """Return a dict that JSON can hold: the name, the representation, and what it computes."""
        return {
            "name": self.name,
            "representation": self.represents,
            "weights": int(sum(np.prod(shape, dtype=np.int64) for shape in self.shapes)),
            "outputs": [round(float(value), 5) for value in self.outputs],
        }

    # what follows opens and checks

    def _base(self, batch_size: int, seq_len: int) -> Any:
        """Call the function; return its keras.Model, inputs and outputs checked."""
        import keras

        inputs = replace(self._inputs, batch_size=batch_size, seq_len=seq_len)
        try:
            with plugins.current_folder_first():
                model = self._function(inputs)
        except Exception as error:
            raise ConfigError(
                f"`model` {self.name} cannot be built: {plugins.where_raised(error)}."
            ) from error
        if not isinstance(model, keras.Model):
            raise self._refused(f"it returns {plugins.kind_of(model)}, expected a keras.Model")
        if not getattr(model, "inputs", None) or not getattr(model, "outputs", None):
            raise self._refused(
                "its layers cannot be seen: return keras.Model(inputs, outputs), no subclass of "
                "keras.Model"
            )
        self._check_inputs(model)
        expected = (batch_size, seq_len, inputs.num_classes)
        if len(model.outputs) != 1:
            raise self._refused(f"it has {len(model.outputs)} outputs, expected one, the scores")
        if (found := tuple(model.outputs[0].shape)) != expected:
            raise self._refused(
                f"its output has the shape {_words(found)}, expected {_words(expected)}: "
                "batch_size, seq_len, and a score for each of the "
                f"{inputs.num_classes} classes (num_classes)"
            )
        for layer in _layers(model):
            if layer.name in RESERVED or layer.name.startswith(PREFIX):
                raise self._refused(
                    f"a layer is called {layer.name}, a name that fedgru uses: choose another one"
                )
        return model

    def _check_inputs(self, model: Any) -> None:
        taken = sorted(tensor.name for tensor in model.inputs)
        given = sorted([*self._inputs.id_names, *self._inputs.number_names])
        if taken != given:
            raise self._refused(
                f"it takes the inputs {', '.join(taken)}, but `features` gives {', '.join(given)}: "
                "use the tensors of inputs.tensors(), and leave out of `features` what the model "
                "does not read"
            )

    def _representation(self, model: Any) -> tuple[Any, str]:
        """Return the representation as a Keras tensor, and where it comes from, in words."""
        import keras

        scores = model.outputs[0]
        named = [layer for layer in model.layers if layer.name == HIDDEN]
        if named:
            found, where = named[0].output, "the output of the layer hidden"
        else:
            last = [
                layer
                for layer in model.layers
                if isinstance(layer, keras.layers.Dense) and layer.output is scores
            ]
            if not last:
                raise self._refused(
                    "it does not say what its representation is, which the leakage probe reads: "
                    "let a Dense layer give the scores, or call the layer whose output it is "
                    "hidden"
                )
            found, where = last[0].input, "the input of the layer that gives the scores"
        if len(found.shape) != 3 or tuple(found.shape[:2]) != tuple(scores.shape[:2]):
            raise self._refused(
                f"its representation, {where}, has the shape {_words(found.shape)}, expected "
                "batch_size, seq_len and any number of columns"
            )
        return found, where

    def _shapes(self, whole: Any, single: Any) -> list[tuple[int, ...]]:
        """Return the shapes of the weights, which all calls must share."""
        if {id(variable) for variable in whole.weights} & {id(v) for v in single.weights}:
            raise self._refused(
                "two calls return models that share weights: make all layers inside the function"
            )
        shapes = [[tuple(v.shape) for v in model.weights] for model in (whole, single)]
        if shapes[0] != shapes[1]:
            different = next(
                (v.path for v, a, b in zip(whole.weights, *shapes, strict=False) if a != b),
                "the number of weights",
            )
            raise self._refused(
                f"its weights depend on batch_size or seq_len ({different}): a state belongs into "
                "a recurrent layer with stateful=True"
            )
        for variable in whole.weights:
            if variable.dtype != "float32":
                raise self._refused(f"{variable.path} is {variable.dtype}, expected float32")
        return shapes[0]

    def _name_weights(self, whole: Any, single: Any) -> list[str]:
        """Return names of the weights that are the same for every call, in every process.

        Keras numbers layers without a name through the whole process. What two calls call
        differently is such a name; it is numbered anew, in the order of the weights.
        """
        names: list[str] = []
        renamed: dict[tuple[str, ...], str] = {}  # beginning of a path -> new last part
        paths = [[v.path.split("/") for v in model.weights] for model in (whole, single)]
        fixed = {
            tuple(first[: i + 1])
            for first, second in zip(*paths, strict=True)
            for i, (a, b) in enumerate(zip(first, second, strict=False))
            if a == b
        }
        for path in paths[0]:
            parts: list[str] = []
            for i, part in enumerate(path):
                begin = tuple(path[: i + 1])
                if begin in fixed:
                    parts.append(part)
                    continue
                if begin not in renamed:
                    renamed[begin] = _free_name(part, {b[-1] for b in fixed} | {*renamed.values()})
                parts.append(renamed[begin])
            names.append("/".join(parts))
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise self._refused(
                f"two of its weights have the same path, {twice[0]}: give their layers, or the "
                "weights, names of their own"
            )
        return names

    def _find_table(self, model: Any) -> int | None:
        """Return which weight holds the table; None if no layer is called "rows"."""
        named = [layer for layer in _layers(model) if layer.name == TABLE]
        if not named or not self._inputs.num_rows:
            return None
        num_rows, weights = self._inputs.num_rows, named[0].weights
        if not weights or len(weights[0].shape) != 2 or weights[0].shape[0] < num_rows:
            found = f"the shape {_words(weights[0].shape)}" if weights else "no weight"
            raise self._refused(
                f"its layer rows has {found}, expected at least {num_rows} rows first, one for "
                "each known id (inputs.num_rows)"
            )
        return next(i for i, v in enumerate(model.weights) if v is weights[0])

    def _named(self, base: Any) -> Weights:
        """Return the weights of one of the function's models under their names."""
        import keras

        arrays = [keras.ops.convert_to_numpy(variable) for variable in base.weights]
        table, at = np.zeros((0, 1), np.float32), self._table
        if at is not None:
            table, arrays[at] = arrays[at][: self.num_rows], arrays[at][self.num_rows :]
        return {"rows": table, **dict(zip(self.weight_names, arrays, strict=True))}

    def _run_both(self, whole: Any, single: Any) -> tuple[Floats, bool]:
        """Run a sequence in two ways. Return some of its scores, and whether a state is carried."""
        draw = np.random.default_rng(0)
        for shape, *variables in zip(self.shapes, whole.weights, single.weights, strict=True):
            value = 0.3 * draw.standard_normal(shape)
            for variable in variables:  # what is not trained can be a variance: above zero
                variable.assign(value if variable.trainable else np.abs(value) + 0.1)
        whole, single = _by_name(whole), _by_name(single)
        seq_len = whole.inputs[0].shape[1]
        fed = self._draw(draw, 2 * seq_len)
        first, second = ({n: a[:, p] for n, a in fed.items()} for p in _halves(seq_len))
        last_changed = {name: a.copy() for name, a in first.items()}
        for name, array in last_changed.items():
            array[:, -1] += 1
            if name in self._inputs.sizes:
                array[:, -1] %= self._inputs.sizes[name] + 1
        _reset(whole)
        scores, after = _run(whole, first), _run(whole, second)
        if not (np.isfinite(scores).all() and np.isfinite(after).all()):
            raise self._refused("its scores are not finite")
        if scores.min() >= 0 and np.allclose(scores.sum(-1), 1, atol=1e-3):
            raise self._refused(
                "it gives probabilities, expected scores (logits): leave the softmax out"
            )
        atol = TOLERANCE * max(1.0, float(np.abs(scores).max()))
        _reset(whole)
        if not np.allclose(_run(whole, first), scores, atol=atol):
            raise self._refused(
                "a reset does not bring back its first state: a layer that carries one must be a "
                "layer of the model itself, with reset_state"
            )
        _reset(whole)
        if not np.allclose(_run(whole, last_changed)[:, :-1], scores[:, :-1], atol=atol):
            raise self._refused(
                "its scores depend on later check-ins, which are what it has to predict: let each "
                "layer read only the past (no Bidirectional, causal padding, causal attention)"
            )
        _reset(single)
        steps = [
            _run(single, {n: np.concatenate([a, a[:, ::-1]])[:, t : t + 1] for n, a in fed.items()})
            for t in range(2 * seq_len)
        ]
        found = np.concatenate(steps, 1)[:1]
        if not np.allclose(found, np.concatenate([scores, after], 1), atol=atol):
            raise self._refused(
                "one check-in in a call gives other scores than several: what it knows of the past "
                "must be carried from call to call. Use recurrent layers with stateful=True"
            )
        _reset(whole)
        carries = not np.allclose(_run(whole, second), after, atol=1e-7)
        return np.concatenate([scores[0, -1, :2], after[0, -1, :2]]), carries

    def _draw(self, draw: np.random.Generator, number: int) -> dict[str, AnyArray]:
        """Return inputs of some check-ins, [1, number] each, all drawn at random."""
        ids = {
            name: draw.integers(0, size + 1, (1, number)).astype(np.int32)
            for name, size in self._inputs.ids
        }
        numbers = {
            name: draw.standard_normal((1, number)).astype(np.float32)
            for name in self._inputs.number_names
        }
        return ids | numbers

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(f"`model` {self.name} cannot be used: {why}.")


def open_own(name: str, inputs: ModelInputs) -> OwnModel:
    """Return the OwnModel that the setting `model` names; it is opened once for the same inputs.

    Raises:
        ConfigError: see `plugins.load_named` and `OwnModel`.
    """
    return _opened(name, find_function(name), inputs)


def find_function(name: str) -> Callable[..., Any]:
    """Return the function that the setting `model` names; errors as `plugins.load_named`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or TensorFlow prints a greeting to stderr
    found = plugins.load_named(name, GROUP, "model")
    if not callable(found):
        raise ConfigError(
            f"`model` {name} is {plugins.kind_of(found)}, expected a function that returns a "
            "keras.Model."
        )
    return found


@lru_cache(maxsize=8)
def _opened(name: str, function: Callable[..., Any], inputs: ModelInputs) -> OwnModel:
    import keras

    if int(keras.__version__.split(".")[0]) < 3:
        raise ConfigError(f"`model` needs Keras 3, but Keras {keras.__version__} is installed.")
    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"`model` needs Keras on TensorFlow, but KERAS_BACKEND is {keras.backend.backend()}. "
            "Unset KERAS_BACKEND."
        )
    return OwnModel(name, function, inputs)


def _layers(model: Any) -> Iterator[Any]:
    """All layers of a model, those of models inside it too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _states(model: Any) -> list[Any]:
    """The variables that a model's layers carry from call to call."""
    import keras

    found = [getattr(layer, "states", None) for layer in _layers(model)]
    return [
        variable
        for states in found
        if states is not None
        for variable in keras.tree.flatten(states)
    ]


def _reset(model: Any) -> None:
    for layer in _layers(model):
        if hasattr(layer, "reset_state") and getattr(layer, "stateful", True):
            layer.reset_state()


def _run(model: Any, fed: dict[str, AnyArray]) -> Floats:
    import keras

    return keras.ops.convert_to_numpy(model(fed, training=False))


def _by_name(model: Any) -> Any:
    """Return the model with its inputs as a dict."""
    import keras

    return keras.Model({tensor.name: tensor for tensor in model.inputs}, model.outputs[0])


def _halves(seq_len: int) -> tuple[slice, slice]:
    return slice(seq_len), slice(seq_len, 2 * seq_len)


def _free_name(automatic: str, taken: Collection[str]) -> str:
    """Return an automatic name with the lowest number that is free."""
    name = re.sub(r"_\d+$", "", automatic)
    number = 0
    while (found := f"{name}_{number}" if number else name) in taken:
        number += 1
    return found


def _words(shape: Sequence[Any]) -> str:
    return f"[{', '.join(map(str, shape))}]"
