"""Protected heads as stock Keras layers behind a gradient reversal, for the reference engine."""

from typing import Any

from fedgru.models.heads import PREFIX


def add_head(hidden: Any, hidden_dims: tuple[int, ...], num_values: int) -> Any:
    """Return the scores of protected head 0 on a Keras tensor, behind a gradient reversal.

    Args:
        hidden: Keras tensor [batch, seq_len, hidden_dim].
        hidden_dims: units of the head's ReLU layers.
        num_values: values of the concept.

    Source: as `fedgru.models.heads.apply_head`, implemented twice on purpose, for comparison.
    """
    import keras

    scores = scale_gradient("reversal")(hidden)
    dims = (*hidden_dims, num_values)
    for layer, units in enumerate(dims):
        activation = "relu" if layer < len(dims) - 1 else None
        scores = keras.layers.Dense(units, activation=activation, name=f"{PREFIX}0_{layer}")(scores)
    return scores


def scale_gradient(name: str) -> Any:
    """Return a Keras layer that returns its input and multiplies the gradient by its `factor`.

    The factor is a variable of the layer, set by the caller: minus alpha is a gradient reversal.
    Needs Keras on TensorFlow.
    """
    import keras
    import tensorflow as tf

    class ScaleGradient(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.factor = self.add_weight(
                name="factor", shape=(), initializer="ones", trainable=False
            )

        def call(self, x: Any) -> Any:
            factor = tf.convert_to_tensor(self.factor)

            @tf.custom_gradient
            def scaled(x: Any) -> Any:
                return tf.identity(x), lambda upstream: factor * upstream

            return scaled(x)

    return ScaleGradient(name=name)


def head_layers(model: Any) -> dict[str, Any]:
    """Return {prefix of the weights' names: layer} of a model's protected heads."""
    return {layer.name: layer for layer in model.layers if layer.name.startswith(PREFIX)}
