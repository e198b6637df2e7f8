"""Protected heads as stock Keras layers behind a gradient reversal, for the reference engine."""

from fedgru.models.heads import PREFIX


def add_head(hidden, hidden_dims, num_values):
    """Return the scores of protected head 0 on a Keras tensor, its gradient turned on the way back.

    Args:
        hidden: Keras tensor [batch, seq_len, hidden_dim].
        hidden_dims: units of the head's ReLU layers.
        num_values: values of the concept.

    Source: as `fedgru.models.heads.apply_head`, written a second time on purpose.
    """
    import keras

    scores = scale_gradient("reversal")(hidden)
    dims = (*hidden_dims, num_values)
    for layer, units in enumerate(dims):
        activation = "relu" if layer < len(dims) - 1 else None
        scores = keras.layers.Dense(units, activation=activation, name=f"{PREFIX}0_{layer}")(scores)
    return scores


def scale_gradient(name):
    """Return a Keras layer that gives its input, and multiplies the gradient by its `factor`.

    The factor is a variable of the layer, to be assigned: minus alpha is a gradient reversal.
    Keras on TensorFlow.
    """
    import keras
    import tensorflow as tf

    class ScaleGradient(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(
                name="factor", shape=(), initializer="ones", trainable=False
            )

        def call(self, x):
            factor = tf.convert_to_tensor(self.factor)

            @tf.custom_gradient
            def scaled(x):
                return tf.identity(x), lambda upstream: factor * upstream

            return scaled(x)

    return ScaleGradient(name=name)


def head_layers(model):
    """Return {prefix of a weight's name: layer} of a model's protected heads."""
    return {layer.name: layer for layer in model.layers if layer.name.startswith(PREFIX)}
