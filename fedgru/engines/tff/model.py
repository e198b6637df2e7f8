"""What TensorFlow Federated is given: client data, the model, the optimizers."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.server_optimizers import SGD, Adam
from fedgru.models import keras_gru
from fedgru.task.features import Inputs
from fedgru.task.task import LocalData, Task


def client_optimizer(rule: ClientRule) -> Any:
    """Return TFF's optimizer for a ClientRule; its Adam has Keras' formula and epsilon."""
    from tensorflow_federated import learning

    build = {"sgd": learning.optimizers.build_sgdm, "adam": learning.optimizers.build_adam}
    return build[rule.optimizer](rule.client_lr)


def server_optimizer(optimizer: SGD | Adam) -> Any:
    """Return TFF's optimizer with the formula of one of `fedgru.algorithms.server_optimizers`."""
    from tensorflow_federated import learning

    if isinstance(optimizer, SGD):
        return learning.optimizers.build_sgdm(optimizer.lr, optimizer.momentum or None)
    build = learning.optimizers.build_yogi if optimizer.yogi else learning.optimizers.build_adam
    return build(optimizer.lr, optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)


def to_data_set(inputs: Inputs, data: LocalData) -> Any:
    """Return a LocalData as tf.data: a local step per element, all passes one after the other.

    Each element is {"x": the Keras model's inputs, "y": int32 [batch, seq_len], class -1 where
    there is no target, "is_start": bool, whether the state is zero before it}.
    """
    import tensorflow as tf

    x = keras_gru.feed(inputs, data.rows, data.numbers, data.beside)
    steps = OrderedDict(
        x=OrderedDict(sorted(x.items())),
        y=np.where(data.mask > 0, data.targets, -1).astype(np.int32),
        is_start=np.arange(len(data.mask)) == 0,
    )
    return tf.data.Dataset.from_tensor_slices(steps).repeat(data.passes)


def model_fn(task: Task, batch_size: int, seq_len: int) -> Callable[[], Any]:
    """Return a function that builds the model anew, as TFF asks for."""
    from tensorflow import autograph

    # the function that builds the model is plain Python, which AutoGraph is not to change
    return autograph.experimental.do_not_convert(partial(_build_model, task, batch_size, seq_len))


def _build_model(task: Task, batch_size: int, seq_len: int) -> Any:
    """Return the tff.learning model of a task: what TFF makes of the Keras model, and two things.

    TFF carries the state of a stateful layer from batch to batch and through `repeat`, and starts
    it at zero for each client and round. fedgru starts it at zero in each local epoch, so batches
    mark where one starts. And TFF weights clients by their rows, some of which are padding in
    fedgru; here they are weighted by their targets.
    """
    import keras
    import tensorflow as tf
    import tensorflow_federated as tff

    keras_model = keras_gru.build(task.spec, task.inputs, batch_size, seq_len, output="scores")

    def losses(classes: Any, scores: Any) -> Any:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(classes, 0), scores)

    class MeanOverTargets(keras.losses.Loss):
        def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            mask = tf.cast(y_true >= 0, tf.float32)
            num_targets = tf.maximum(tf.reduce_sum(mask), 1.0)
            return tf.reduce_sum(losses(y_true, y_pred) * mask) / num_targets

    class SumOverTargets(keras.metrics.Sum):
        def __init__(self, name: str, dtype: Any, values: Callable[[Any, Any], Any]) -> None:
            super().__init__(name, dtype)
            self._values = values

        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            values = tf.where(y_true >= 0, tf.cast(self._values(y_true, y_pred), self.dtype), 0)
            return super().update_state(values)

    sums = [
        ("loss_sum", tf.float32, losses),
        # in TFF's graphs == compares whether two tensors are the same object
        ("num_correct", tf.int64, lambda c, scores: tf.equal(tf.argmax(scores, -1, tf.int32), c)),
        ("num_examples", tf.int64, lambda classes, _: tf.ones_like(classes)),
    ]
    shape = (batch_size, seq_len)
    spec = OrderedDict(
        x=OrderedDict(
            (name, tf.TensorSpec(tensor.shape, tensor.dtype))
            for name, tensor in sorted(keras_model.input.items())
        ),
        y=tf.TensorSpec(shape, tf.int32),
    )
    model = tff.learning.models.from_keras_model(
        keras_model,
        loss=MeanOverTargets(),
        input_spec=spec,
        metrics=[partial(SumOverTargets, *each) for each in sums],
    )
    state = keras_model.get_layer("recurrent").states

    class StatefulModel(tff.learning.models.VariableModel):
        trainable_variables = model.trainable_variables
        non_trainable_variables = model.non_trainable_variables
        local_variables = model.local_variables
        input_spec = OrderedDict(**spec, is_start=tf.TensorSpec((), tf.bool))

        @tf.function
        def forward_pass(self, batch_input: Any, training: bool = True) -> Any:
            for part in state:
                part.assign(tf.where(batch_input["is_start"], tf.zeros_like(part), part))
            output = model.forward_pass(
                OrderedDict(x=batch_input["x"], y=batch_input["y"]), training
            )
            num_targets = tf.math.count_nonzero(batch_input["y"] >= 0)
            return tff.learning.models.BatchOutput(output.loss, output.predictions, num_targets)

        def predict_on_batch(self, batch_input: Any, training: bool = True) -> Any:
            return model.predict_on_batch(batch_input, training)

        def report_local_unfinalized_metrics(self) -> Any:
            return model.report_local_unfinalized_metrics()

        def metric_finalizers(self) -> Any:
            return model.metric_finalizers()

        def reset_metrics(self) -> Any:
            return model.reset_metrics()

    return StatefulModel()
