"""The reference: stock Keras model, stock Keras optimizer, one-hot inputs, client after client.

Slow, and meant to be read beside McMahan et al. 2017 (arXiv:1602.05629), Algorithm 1. Every other
engine must give the same numbers.
"""

import numpy as np

from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.engines.base import Engine
from fedgru.errors import ConfigError
from fedgru.models import keras_gru


class ReferenceEngine(Engine):
    """See the module's docstring."""

    name = "reference"

    def __init__(self, task):
        super().__init__(task)
        import keras

        if keras.backend.backend() != "tensorflow":
            raise ConfigError(
                f"--engine reference needs Keras on TensorFlow, but KERAS_BACKEND is "
                f"{keras.backend.backend()}, where a training step does not carry the state of a "
                "stateful layer. Unset KERAS_BACKEND."
            )
        # dropout is drawn by Keras: it agrees with the other engines in distribution alone
        keras.utils.set_random_seed(task.settings.loop.seed)
        layout = task.settings.layout
        shape = (layout.batch_size, layout.seq_len)
        self._model = keras_gru.build(task.spec, task.inputs, *shape, output="scores")
        self._walker = keras_gru.build(task.spec, task.inputs, 1, layout.seq_len, output="hidden")
        self._optimizer = _client_optimizer(task.settings.client)
        self._model.compile(
            self._optimizer,
            keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
            weighted_metrics=[keras.metrics.SparseCategoricalAccuracy(name="accuracy")],
        )
        self._optimizer.build(self._model.trainable_variables)
        self._fresh_optimizer = [v.numpy() for v in self._optimizer.variables]

    def local_updates(self, weights, cohort, round_num):
        """Yield the ClientUpdate of each client of the cohort, in the cohort's order."""
        for client in cohort:
            yield self._client_update(weights, int(client))

    def _client_update(self, weights, client):
        """Algorithm 1, ClientUpdate(k, w): E local epochs over the batches of client k."""
        keras_gru.set_weights(self._model, weights)
        for variable, value in zip(self._optimizer.variables, self._fresh_optimizer, strict=True):
            variable.assign(value)
        data = self.task.local_data(client)
        loss_sum = num_correct = 0.0
        for _ in range(data.passes):
            keras_gru.reset_state(self._model)
            for step in range(len(data.mask)):
                log_prior = None if data.log_prior is None else data.log_prior[step]
                num_targets = data.mask[step].sum()
                self._model.reset_metrics()
                # weights that sum to 1 make the sum of the losses their mean over real targets
                result = self._model.train_on_batch(
                    keras_gru.feed(
                        self.task.inputs, data.rows[step], data.numbers[step], log_prior
                    ),
                    data.targets[step],
                    sample_weight=data.mask[step] / max(num_targets, 1.0),
                    return_dict=True,
                )
                loss_sum += float(result["loss"] * num_targets)
                num_correct += float(result["accuracy"] * num_targets)
        after = keras_gru.get_weights(self._model, self.task.spec.num_rows)
        update = {name: after[name] - weights[name] for name in weights}
        row_update = update.pop("rows")
        return ClientUpdate(
            client=client,
            num_examples=data.num_examples,
            dense=update,
            row_ids=_own_rows(data),
            row_update=row_update[_own_rows(data)],
            loss_sum=loss_sum,
            num_correct=num_correct,
        )

    def hidden_states(self, weights, first_positions, end_positions, wanted):
        """See Engine.hidden_states. The stateful model walks along one client at a time."""
        keras_gru.set_weights(self._walker, weights)
        inputs, seq_len = self.task.inputs, self.task.settings.layout.seq_len
        place = np.full(len(self.task.classes), -1)
        place[wanted] = np.arange(len(wanted))
        hidden = np.empty((len(wanted), self.task.spec.hidden_dim), np.float32)
        for first, end in zip(first_positions, end_positions, strict=True):
            keras_gru.reset_state(self._walker)
            for begin in range(first, end, seq_len):
                positions = np.arange(begin, begin + seq_len)
                read = np.minimum(positions, end - 1)[None]  # past the end: read, but not used
                fed = keras_gru.feed(inputs, inputs.rows[read], inputs.numbers[read])
                states = np.asarray(self._walker(fed))[0]
                asked = np.where(positions < end, place[np.minimum(positions, end - 1)], -1)
                hidden[asked[asked >= 0]] = states[asked >= 0]
        return hidden


def _client_optimizer(settings):
    import keras

    optimizer = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}
    return optimizer[settings.client_optimizer](settings.client_lr)


def _own_rows(data):
    """int32 [num_own], the table rows that a client's train inputs name."""
    rows = np.unique(data.rows)
    return rows[rows >= 0].astype(np.int32)
