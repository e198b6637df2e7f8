"""The reference: stock Keras model, stock Keras optimizer, one-hot inputs, client after client.

Slow, and meant to be read beside McMahan et al. 2017 (arXiv:1602.05629), Algorithm 1. Every other
engine must give the same numbers.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from fedgru.agnostic.protection import HEAD_DIMS, Protection, init_weights
from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart, Starts, whole_weights
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.config.methods import METHODS
from fedgru.config.settings import Settings
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, TrainingError
from fedgru.core.trees import map_arrays
from fedgru.core.types import AnyInts, Doubles, Floats, Int32s, Ints, Weights
from fedgru.engines.base import Constants, Engine
from fedgru.models import keras_candidates, keras_gru, keras_heads
from fedgru.models.candidate_head import CandidateSpec, Trained
from fedgru.models.own import OwnSpec
from fedgru.models.own_keras import OwnModel
from fedgru.task.task import LocalData, Task

MEASURED_STEPS, MEASURED_CLIENTS = 5, 200  # for the time of a round
_MEASURED = ("nll_of_scores", "accuracy_of_scores", "nll_of_protected", "accuracy_of_protected")

logger = logging.getLogger(__name__)


class ReferenceEngine(Engine[Task]):
    """See the module's docstring."""

    name = "reference"

    @classmethod
    def check_here(cls, settings: Settings) -> None:
        """See Engine.check_here."""
        import keras

        if keras.backend.backend() != "tensorflow":
            raise ConfigError(
                f"`engine` reference needs Keras on TensorFlow, but KERAS_BACKEND is "
                f"{keras.backend.backend()}, where a training step does not carry the state of a "
                "stateful layer. Unset KERAS_BACKEND."
            )
        if settings.model.head == "candidates" and not hasattr(keras, "ops"):
            raise ConfigError(
                f"`engine` reference has the head candidates with Keras 3, and this is Keras "
                f"{keras.__version__}. Use `engine` jax, or an environment without TensorFlow "
                "Federated."
            )

    def __init__(self, task: Task, client_rule: ClientRule | None = None) -> None:
        super().__init__(task, client_rule)
        self.check_here(task.settings)
        import keras

        # dropout is drawn by Keras: it agrees with the other engines in distribution alone
        keras.utils.set_random_seed(task.settings.loop.seed)
        layout = task.settings.layout
        shape = (layout.batch_size, layout.seq_len)
        protection, protected = task.protection, None
        if protection is not None:
            _check_knows(protection, task.settings.agnostic.method)
            protected = (HEAD_DIMS, protection.num_values)
        # a model of one's own has the functions of keras_gru
        self._keras: Any = task.spec.own if isinstance(task.spec, OwnSpec) else keras_gru
        self._model = self._keras.build(task.spec, task.inputs, *shape, "scores", protected)
        self._forward_model = self._keras.build(
            task.spec, task.inputs, 1, layout.seq_len, output="hidden"
        )
        # variables beside the model's trainable ones, where the rule asks for them
        self._received: list[Any] = []  # what a client received
        self._offset: list[Any] = []  # what is added to each gradient
        self._moved: list[Any] = []  # where the steps would have led, with `at_received`
        self._optimizer = _client_optimizer(
            self.client_rule, self._received, self._offset, self._moved
        )
        if protection is not None and protection.server_head:
            for layer in keras_heads.head_layers(self._model).values():
                layer.trainable = False
        loss, measures = _loss_and_measures(task)
        self._model.compile(self._optimizer, loss, weighted_metrics=measures)
        import tensorflow as tf

        rule = self.client_rule
        for variables, asked in (
            (self._received, rule.adds_to_gradient),
            (self._offset, rule.by_client),
            (self._moved, rule.at_received),
        ):
            if asked:
                variables += map(tf.Variable, self._model.trainable_variables)
        self._optimizer.build(self._model.trainable_variables)
        self._fresh_optimizer = [v.numpy() for v in self._optimizer.variables]

    def beside(self, task: Task) -> "ReferenceEngine":
        """Return an engine of another task, see JaxEngine.beside; it shares nothing."""
        return type(self)(task, self.client_rule)

    def local_updates(
        self,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Constants | None = None,
        starts: Starts | None = None,
    ) -> Iterator[ClientUpdate]:
        """Yield the ClientUpdate of each client of the cohort, in the cohort's order."""
        protection = self.task.protection
        if protection is not None and constants is not None:  # equation (1) of Jia et al. 2018
            target_weight, reversal = protection.loss_weights(constants["alpha"])
            self._model.get_layer("share").factor.assign(target_weight)
            self._model.get_layer("reversal").factor.assign(-reversal)
        key = seeding.key_words(self.task.settings.loop.seed, "dropout", round_num)
        # a resumed run draws as one that was never stopped
        for number, seed_state in enumerate(_seed_states(self._model)):
            seed_state.assign([key[0], (int(key[1]) + number) % 2**32])
        for client in cohort:
            yield self._client_update(weights, int(client), starts)

    def report_speed(self) -> None:
        """Log the measured time of a local step of a model of one's own, times a round's steps."""
        spec, task = self.task.spec, self.task
        if not isinstance(spec, OwnSpec):
            return
        if not spec.own.carries_state:
            logger.warning(
                "`model` %s carries nothing from one check-in to the next: it predicts from the "
                "last check-in alone",
                spec.cell,
            )
        epochs, clients = self.client_rule.local_epochs, task.training_clients
        some = clients[:: -(-len(clients) // MEASURED_CLIENTS)].tolist()
        data = [task.local_data(client, local_epochs=epochs) for client in some]
        steps = np.mean([one.passes * len(one.mask) for one in data])
        steps *= task.settings.loop.clients_per_round or len(clients)
        self._keras.set_weights(self._model, init_weights(task))
        self._local_step(data[0], 0)  # compiles
        started = time.perf_counter()
        for number in range(MEASURED_STEPS):
            self._local_step(data[0], number % len(data[0].mask))
        step_s = (time.perf_counter() - started) / MEASURED_STEPS
        logger.info(
            "`model` %s: %.3g ms for a local step, so %.1f s for the about %.0f local steps of a "
            "round; validation comes on top",
            spec.cell,
            1000 * step_s,
            steps * step_s,
            steps,
        )

    def _client_update(
        self, weights: Weights, client: int, starts: Starts | None = None
    ) -> ClientUpdate:
        """Algorithm 1, ClientUpdate(k, w): E local epochs over the batches of client k."""
        data = self.task.local_data(client, local_epochs=self.client_rule.local_epochs)
        if starts is not None:
            own_rows = self._own_rows(data)
            weights = self._begin(starts(client, own_rows), weights, own_rows)
        else:
            self._set(self._received, weights)
        self._set(self._moved, weights)
        self._keras.set_weights(self._model, weights)
        for variable, value in zip(self._optimizer.variables, self._fresh_optimizer, strict=True):
            variable.assign(value)
        sums = np.zeros(5)
        for _ in range(data.passes):
            self._keras.reset_state(self._model)
            for step in range(len(data.mask)):
                if data.resets is not None:
                    keras_gru.reset_rows(self._model, data.resets[step])
                sums += self._local_step(data, step)
        for moved, variable in zip(self._moved, self._model.trainable_variables, strict=False):
            variable.assign(moved)
        after = self._keras.get_weights(self._model, self.task.spec.num_rows)
        update = {name: after[name] - weights[name] for name in weights}
        row_update, own_rows = update.pop("rows"), self._own_rows(data)
        moves_others = row_update.any(1).sum() > row_update[own_rows].any(1).sum()
        if moves_others and isinstance(self.task.spec, OwnSpec):
            raise TrainingError(
                f"client {self.task.clients.client_ids[client]} moved rows of ids that it does not "
                "have. Let only look-ups read the table (the layer rows): no penalty for its "
                "weights, no noise."
            )
        return ClientUpdate(
            client=client,
            num_examples=data.num_examples,
            dense=update,
            row_ids=own_rows,
            row_update=row_update[own_rows],
            loss_sum=sums[0],
            num_correct=sums[1],
            protected=sums[2:],
            num_steps=data.passes * len(data.mask),
        )

    def _begin(self, start: ClientStart, weights: Weights, row_ids: Int32s) -> Weights:
        """Set what goes with a ClientStart; return its weights with the whole table."""
        anchor = start.weights if start.anchor is None else start.anchor
        self._set(self._received, whole_weights(anchor, row_ids, weights["rows"]))
        nothing = np.zeros_like(weights["rows"])
        offset = start.offset or {n: np.zeros_like(w) for n, w in start.weights.items()}
        self._set(self._offset, whole_weights(offset, row_ids, nothing))
        return whole_weights(start.weights, row_ids, weights["rows"])

    def _set(self, variables: list[Any], weights: Weights) -> None:
        """Set variables that lie beside the model's trainable ones to weights; none if empty."""
        if not variables:
            return
        self._keras.set_weights(self._model, weights)
        for kept, variable in zip(variables, self._model.trainable_variables, strict=True):
            kept.assign(variable)

    def _own_rows(self, data: LocalData) -> Int32s:
        """int32 [num_own], the table rows that a client's train inputs name."""
        rows = np.unique(data.rows)  # a model of one's own can have no table
        return rows[(rows >= 0) & (rows < self.task.spec.num_rows)].astype(np.int32)

    def _local_step(self, data: LocalData, step: int) -> Doubles:
        """One call of train_on_batch; returns the sums of a ClientUpdate, float64 [5]."""
        beside = map_arrays(lambda array: array[step], data.beside)
        labels, counts = data.targets[step], data.mask[step]
        if isinstance(beside, Trained):
            labels = keras_candidates.labels(labels, beside)
        num = num_protected = counts.sum()
        # weights that sum to 1 make the sum of the losses their mean over real targets
        weights = counts / max(num, 1.0)
        if data.protected is not None:
            known = (data.protected[step] >= 0).astype(np.float32)
            num_protected = known.sum()
            labels = {"scores": labels, "protected": np.maximum(data.protected[step], 0)}
            weights = {"scores": weights, "protected": known / max(num_protected, 1.0)}
        self._model.reset_metrics()
        result = self._model.train_on_batch(
            self._keras.feed(self.task.inputs, data.rows[step], data.numbers[step], beside),
            labels,
            sample_weight=weights,
            return_dict=True,
        )
        # with two outputs Keras puts a name before these: 3 the output's, 2 its layer's
        measured = [
            float(next(value for key, value in result.items() if key.endswith(name)))
            for name in _MEASURED[: 2 if data.protected is None else 4]
        ]
        if data.protected is None:
            return np.array([measured[0] * num, measured[1] * num, 0.0, 0.0, 0.0])
        return np.array(measured + [1.0]) * [num, num, *(3 * [num_protected])]

    def hidden_states(
        self,
        weights: Weights,
        first_positions: Ints,
        end_positions: Ints,
        wanted: Ints,
        carried: bool = False,
    ) -> Floats:
        """See Engine.hidden_states. The stateful model runs over one client at a time.

        With `carried` what the layers carry to the next check-in follows, column after column: only
        for a model of one's own, whose check-ins are then read one by one.
        """
        spec = self.task.spec
        if carried:
            if not isinstance(spec, OwnSpec):
                raise NotImplementedError(
                    "engine reference has no carried states of the built-in model: use engine jax"
                )
            return self._carried_states(spec.own, weights, first_positions, end_positions, wanted)
        self._keras.set_weights(self._forward_model, weights)
        inputs, seq_len = self.task.inputs, self.task.settings.layout.seq_len
        place = np.full(len(self.task.classes), -1)
        place[wanted] = np.arange(len(wanted))
        hidden = np.empty((len(wanted), spec.states_dim), np.float32)
        for first, end in zip(first_positions, end_positions, strict=True):
            self._keras.reset_state(self._forward_model)
            for begin in range(first, end, seq_len):
                positions = np.arange(begin, begin + seq_len)
                read = np.minimum(positions, end - 1)[None]  # past the end: a copy that is not used
                fed = self._keras.feed(inputs, inputs.rows[read], inputs.numbers[read])
                states = self._forward_model.predict_on_batch(fed)[0]
                asked = np.where(positions < end, place[np.minimum(positions, end - 1)], -1)
                hidden[asked[asked >= 0]] = states[asked >= 0]
        return hidden

    def _carried_states(
        self, own: OwnModel, weights: Weights, firsts: Ints, ends: Ints, wanted: Ints
    ) -> Floats:
        """As `hidden_states`, with all that is carried."""
        inputs, found = self.task.inputs, {}
        is_wanted = np.zeros(len(self.task.classes), bool)
        is_wanted[wanted] = True
        for first, end in zip(firsts, ends, strict=True):
            state = own.start()
            for at in range(first, end):
                one = slice(at, at + 1)
                state = own.advance(weights, inputs.rows[one], inputs.numbers[one], state)
                if is_wanted[at]:
                    found[at] = np.concatenate([array.ravel() for array in state])
        return np.stack([found[at] for at in wanted.tolist()])


def _loss_and_measures(task: Task) -> tuple[Any, Any]:
    """Return the Keras loss and metrics of the scores, and of a protected head's scores."""
    if isinstance(task.spec, CandidateSpec):
        return keras_candidates.summed_loss(), keras_candidates.measures()
    if task.protection is None:
        return _summed_loss(), _measures("scores")
    outputs = ("scores", "protected")
    return {name: _summed_loss() for name in outputs}, {name: _measures(name) for name in outputs}


def _summed_loss() -> Any:
    import keras

    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")


def _measures(output: str) -> list[Any]:
    import keras

    return [
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True, name=f"nll_of_{output}"),
        keras.metrics.SparseCategoricalAccuracy(name=f"accuracy_of_{output}"),
    ]


def _check_knows(protection: Protection, name: str) -> None:
    """Refuse methods other than the paper's: only the jax engine has them."""
    if protection.method != METHODS["reversal"]:
        raise ConfigError(
            f"`engine` reference knows only `method` reversal, not {name}. Use `engine` jax."
        )


def _client_optimizer(
    rule: ClientRule, received: list[Any], offset: list[Any], moved: list[Any]
) -> Any:
    """The Keras optimizer of a ClientRule; the lists are filled before the first step."""
    import keras
    import tensorflow as tf

    optimizer: Any = {"adam": keras.optimizers.Adam, "sgd": keras.optimizers.SGD}[rule.optimizer]
    if not (rule.adds_to_gradient or rule.by_client or rule.at_received):
        return optimizer(rule.client_lr)
    if rule.at_received and (rule.optimizer, rule.adds_to_gradient) != ("sgd", False):
        raise ValueError("gradients at the received weights need optimizer sgd and no added term")

    class WithAddedTerms(optimizer):
        def apply_gradients(
            self, grads_and_vars: Iterable[tuple[Any, Any]], *args: Any, **kwargs: Any
        ) -> Any:
            gradients, variables = zip(*grads_and_vars, strict=True)
            sums = list(gradients)
            if rule.adds_to_gradient:
                now = map(tf.convert_to_tensor, variables)
                added = map(rule.added, now, map(tf.convert_to_tensor, received))
                sums = [g + more for g, more in zip(sums, added, strict=True)]
            if rule.by_client:
                sums = [g + more for g, more in zip(sums, offset, strict=True)]
            if rule.at_received:
                for variable, gradient in zip(moved, sums, strict=True):
                    variable.assign_sub(rule.client_lr * gradient)
                return self.iterations.assign_add(1)
            pairs = zip(sums, variables, strict=True)
            return super().apply_gradients(pairs, *args, **kwargs)

    return WithAddedTerms(rule.client_lr)


def _seed_states(model: Any) -> list[Any]:
    """The states of the random generators in a model's layers; Keras 2 has none."""
    if not hasattr(model, "variables") or not hasattr(model.weights[0], "path"):
        return []
    return [v for v in model.variables if v.path.endswith("seed_generator_state")]
