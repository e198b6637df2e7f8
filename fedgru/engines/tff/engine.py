"""The same steps as TensorFlow Federated computations, in the environment that `make tff` creates.

TFF trains the clients and averages their updates. Weights and the server optimizer's slots have
fedgru's own names outside, so that a ServerState means the same here as in the other engines.

With dropout off the numbers are those of the other engines. With dropout on they agree in
distribution, and two runs of one seed differ: TFF lets each client draw from the system's entropy.

TFF holds what all clients of a round sent until it averages them: about four times the size of
the weights for each, 9 GiB for 100 clients of the notebook's model.
"""

import logging
import os
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.fed_avg import FedAvg, ServerState
from fedgru.algorithms.protocol import Algorithm
from fedgru.algorithms.server_optimizers import SGD, Adagrad, Adam, Falling
from fedgru.config.settings import Settings
from fedgru.core.errors import ConfigError, MissingEngineError, TrainingError
from fedgru.core.jax_setup import num_threads
from fedgru.core.types import AnyInts, Floats, Ints, Weights
from fedgru.engines.base import Engine, RoundResult, advice, check_diverged
from fedgru.engines.tff import model as tff_model
from fedgru.models import keras_gru
from fedgru.task import streams
from fedgru.task.task import LocalData, Task

if TYPE_CHECKING:
    from fedgru.engines.tff.worker import Worker

FORWARD_ROWS = 32
FORWARD_SEQ_LEN = 64
MAX_NOISE = 0.1  # per client; twice the spread of TFF's noise on the number of clipped clients


class TffEngine(Engine[Task]):
    """See the module's docstring. At the first round it starts a Worker, which ends with it.

    Raises:
        MissingEngineError: if TensorFlow Federated is not installed.
        ConfigError: if there are too few clients for the noise that the settings ask for.
    """

    name = "tff"
    runs_whole_rounds = True  # clients train and are averaged inside TFF

    @classmethod
    def check_here(cls, settings: Settings) -> None:
        """See Engine.check_here."""
        _import_tff()

    def __init__(self, task: Task, client_rule: ClientRule | None = None) -> None:
        super().__init__(task, client_rule)
        self.check_here(task.settings)
        noise, cohort_size = _noise_and_cohort_size(task)
        too_much = round(MAX_NOISE * cohort_size, 9)
        if task.settings.server.tff_aggregator == "dp" and noise >= too_much:
            raise ConfigError(
                f"`tff_noise` is {noise:g}, but with {cohort_size} clients in a round it must be "
                f"below {too_much:g}, or adaptive clipping drowns in its own noise."
            )
        self._worker: Worker | None = None
        self._process_of: dict[SGD | Adam, tuple[Any, Any]] = {}

    def run_round(self, algorithm: Algorithm, state: ServerState, cohort: AnyInts) -> RoundResult:
        """See Engine.run_round. A client that diverged is not named: TFF gives only sums."""
        import tensorflow as tf

        if type(algorithm) is not FedAvg:
            raise ConfigError(f"`engine` tff knows only fed_avg, not {algorithm.name}.")
        optimizer = algorithm.server_optimizer
        if isinstance(optimizer, Adagrad | Falling):
            raise ConfigError(
                "`engine` tff has neither Adagrad by the paper's formula nor a falling `server_lr`."
            )
        process, start = self._learning_process(optimizer)
        if "aggregator" in state.optimizer:
            parts = list(state.optimizer["aggregator"].values())
            start = start._replace(aggregator=tf.nest.pack_sequence_as(start.aggregator, parts))
        epochs = self.client_rule.local_epochs
        local = [self.task.local_data(int(c), local_epochs=epochs) for c in cohort]
        output = self._run(
            process.next,
            start._replace(
                global_model_weights=self._to_tff(state.weights),
                finalizer=self._slots_to_tff(state.optimizer, start.finalizer),
            ),
            [tff_model.to_data_set(self.task.inputs, data) for data in local],
        )
        sums = output.metrics["client_work"]["train"]
        num_examples = sum(data.num_examples for data in local)
        round_num = state.round_num + 1
        # TFF leaves out a client whose update is not finite, without a message
        if int(sums["num_examples"]) != num_examples:
            raise TrainingError(
                f"training loss became NaN in round {round_num} (TensorFlow Federated does not say "
                f"for which client). {advice(self.task.settings, round_num)}"
            )
        metrics = {
            "loss": float(sums["loss_sum"]) / num_examples,
            "acc@1": float(sums["num_correct"]) / num_examples,
        }
        check_diverged(self.task.settings, metrics["loss"], round_num)
        weights = self._named(output.state.global_model_weights.trainable)
        slots = self._slots_from_tff(output.state.finalizer)
        parts = tf.nest.flatten(output.state.aggregator)
        if parts:  # how large updates have been so far
            slots["aggregator"] = {str(i): np.asarray(part) for i, part in enumerate(parts)}
        return RoundResult(
            ServerState(weights, slots, round_num), metrics, len(cohort), num_examples
        )

    def hidden_states(
        self, weights: Weights, first_positions: Ints, end_positions: Ints, wanted: Ints
    ) -> Floats:
        """See Engine.hidden_states. One forward pass runs over clients of about one length."""
        model, forward = self._forward_model
        keras_gru.set_weights(model, weights)
        inputs = self.task.inputs
        place = np.full(len(self.task.classes), -1)
        place[wanted] = np.arange(len(wanted))
        hidden = np.empty((len(wanted), self.task.spec.hidden_dim), np.float32)
        by_length = np.argsort(np.subtract(first_positions, end_positions), kind="stable")
        for group in np.split(by_length, np.arange(FORWARD_ROWS, len(by_length), FORWARD_ROWS)):
            first, end = np.zeros((2, FORWARD_ROWS, 1), np.int64)
            first[: len(group), 0] = first_positions[group]
            end[: len(group), 0] = end_positions[group]
            keras_gru.reset_state(model)
            for offset in range(0, int((end - first).max()), FORWARD_SEQ_LEN):
                positions = first + offset + np.arange(FORWARD_SEQ_LEN)
                read = np.where(
                    positions < end, positions, 0
                )  # past the end: a position that is not used
                states = forward(keras_gru.feed(inputs, inputs.rows[read], inputs.numbers[read]))
                asked = np.where(positions < end, place[read], -1)
                hidden[asked[asked >= 0]] = states.numpy()[asked >= 0]
        return hidden

    def evaluate_on_clients(self, weights: Weights, split: str) -> dict[str, float]:
        """Let TFF's federated evaluation score a split, each client with all of its past.

        A second route to two numbers of `evaluate.evaluate`, without hidden states leaving a
        client.

        Args:
            weights: name -> float32 array.
            split: "train", "val" or "test".

        Returns:
            dict: "loss", mean over targets of a known class, and "acc@1", mean over all.
        """
        clients = self.task.clients
        positions = clients.target_positions(split)
        owners = np.unique(clients.client_of[positions])
        process, start = self._evaluation_process
        output = self._run(
            process.next,
            start._replace(global_model_weights=self._to_tff(weights)),
            [self._evaluation_data(client, split) for client in owners],
        )
        sums = output.metrics["client_work"]["eval"]["current_round_metrics"]
        return {
            "loss": float(sums["loss_sum"] / sums["num_examples"]),
            "acc@1": float(sums["num_correct"]) / len(positions),
        }

    def _run(self, computation: Callable[..., Any], *args: Any) -> Any:
        """Run a TFF computation in the worker; end the worker if that fails or is interrupted."""
        from fedgru.engines.tff.worker import Worker

        if self._worker is None:
            self._worker = Worker(num_threads(self.task.settings.loop.threads))
        try:
            with self._worker.context():
                return computation(*args)
        except BaseException:
            self._worker.stop()
            self._worker = None
            raise

    def _learning_process(self, server_optimizer: SGD | Adam) -> tuple[Any, Any]:
        """Return TFF's learning process and its state before round 1."""
        if server_optimizer not in self._process_of:
            layout = self.task.settings.layout
            build, aggregator = self._aggregation
            process = build(
                tff_model.model_fn(self.task, layout.batch_size, layout.seq_len),
                client_optimizer_fn=tff_model.client_optimizer(self.client_rule),
                server_optimizer_fn=tff_model.server_optimizer(server_optimizer),
                model_aggregator=aggregator,
            )
            self._process_of[server_optimizer] = process, self._run(process.initialize)
        return self._process_of[server_optimizer]

    @property
    def _aggregation(self) -> tuple[Callable[..., Any], Any]:
        """How to build the learning process, and its aggregator; None is the plain mean."""
        from tensorflow_federated import learning

        weighted = learning.algorithms.build_weighted_fed_avg
        match self.task.settings.server.tff_aggregator:
            case "none":
                return weighted, None
            case "robust":
                return weighted, learning.robust_aggregator()
            case "compression":
                return weighted, learning.compression_aggregator()
            case "dp":  # each client counts the same, whatever its examples
                dp = learning.dp_aggregator(*_noise_and_cohort_size(self.task))
                return learning.algorithms.build_unweighted_fed_avg, dp

    @cached_property
    def _evaluation_process(self) -> tuple[Any, Any]:
        import tensorflow_federated as tff

        process = tff.learning.algorithms.build_fed_eval(
            tff_model.model_fn(self.task, 1, FORWARD_SEQ_LEN)
        )
        return process, self._run(process.initialize)

    @cached_property
    def _model(self) -> Any:
        """A Keras model that gives the names of TFF's list of weights."""
        return keras_gru.build(self.task.spec, self.task.inputs, output="scores")

    @cached_property
    def _forward_model(self) -> tuple[Any, Callable[..., Any]]:
        """A Keras model that gives hidden states, and the same compiled."""
        import tensorflow as tf

        shape = (FORWARD_ROWS, FORWARD_SEQ_LEN)
        model = keras_gru.build(self.task.spec, self.task.inputs, *shape, output="hidden")
        return model, tf.function(model)

    def _listed(self, by_name: Weights) -> list[Floats]:
        """Return arrays of the weights' shapes in TFF's order."""
        keras_gru.set_weights(self._model, by_name)
        return [variable.numpy() for variable in self._model.trainable_variables]

    def _named(self, listed: Iterable[Any]) -> Weights:
        """Return name -> array from a list in TFF's order."""
        for variable, value in zip(self._model.trainable_variables, listed, strict=True):
            variable.assign(value)
        return keras_gru.get_weights(self._model, self.task.spec.num_rows)

    def _to_tff(self, weights: Weights) -> Any:
        import tensorflow_federated as tff

        return tff.learning.models.ModelWeights(self._listed(weights), [])

    def _slots_to_tff(
        self, slots: dict[str, Any], start: Mapping[str, Any]
    ) -> OrderedDict[str, Any]:
        """Return a ServerState's slots as TFF has them, where the gradient is minus the update."""
        state = OrderedDict(start)
        if "velocity" in slots:  # there without the learning rate in it
            velocity = self._listed(slots["velocity"])
            state["accumulator"] = [-v / start["learning_rate"] for v in velocity]
        if "m" in slots:
            state["accumulator"] = [-m for m in self._listed(slots["m"])]
            state["preconditioner"] = self._listed(slots["v"])
            state["step"] = slots["step"]
        return state

    def _slots_from_tff(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The inverse of `_slots_to_tff`."""
        if "preconditioner" in state:
            return {
                "m": self._named([-m for m in state["accumulator"]]),
                "v": self._named(state["preconditioner"]),
                "step": int(state["step"]),
            }
        if "accumulator" in state:
            lr = state["learning_rate"]
            return {"velocity": self._named([-lr * m for m in state["accumulator"]])}
        return {}

    def _evaluation_data(self, client: int, split: str) -> Any:
        """A client's past up to the end of a split in one stream; targets in the split alone."""
        clients = self.task.clients
        start = clients.starts[client]
        first, end = (bounds[client] for bounds in clients.bounds(split))
        num_pairs = int(end - start) - 1
        cut = streams.contiguous(num_pairs, batch_size=1, seq_len=FORWARD_SEQ_LEN, local_epochs=1)
        pairs = np.maximum(cut.pairs, 0)
        classes = self.task.classes[start + pairs + 1]
        is_target = (cut.pairs >= 0) & (start + pairs + 1 >= first) & (classes >= 0)
        log_prior = None
        if self.task.spec.has_prior:
            log_prior = self.task.log_prior(client, np.arange(num_pairs))[pairs]
        return tff_model.to_data_set(
            self.task.inputs,
            LocalData(
                rows=self.task.inputs.rows[start + pairs],
                numbers=self.task.inputs.numbers[start + pairs],
                targets=classes,
                mask=is_target.astype(np.float32),
                beside=log_prior,
                protected=None,
                passes=1,
                num_examples=int(is_target.sum()),
            ),
        )


def _import_tff() -> None:
    # TensorFlow logs every constant in TFF's graphs, and missing GPUs; real errors are exceptions.
    # Importing JAX sets 1.
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    handlers = list(logging.root.handlers)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pkg_resources, which google.rpc imports
            import tensorflow_federated  # noqa: F401
        # it adds a handler, which would print our log twice; without any handler it adds one later
        logging.root.handlers = handlers or [logging.NullHandler()]
    except ModuleNotFoundError as error:
        if error.name != "tensorflow_federated":
            raise
        raise MissingEngineError(
            "`engine` tff needs the environment that `make tff` creates (Python 3.11, TensorFlow "
            "Federated 0.87): run .venv-tff/bin/fedgru in place of fedgru."
        ) from error


def _noise_and_cohort_size(task: Task) -> tuple[float, int]:
    noise, cohort_size = task.settings.server.tff_noise, task.settings.loop.clients_per_round
    return (1.0 if noise is None else noise), cohort_size or len(task.training_clients)
