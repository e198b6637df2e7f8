"""Agnostic training of the federated model: what happens before, in and after a round.

This module applies the other parts of `fedgru/agnostic/` to check-ins, clients and rounds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from fedgru.agnostic import pooled
from fedgru.agnostic.concepts import Concept, LabelledCheckIns, SplitClients, make_concept
from fedgru.agnostic.erasure import Moments, fit_eraser
from fedgru.agnostic.objective import TradeOff
from fedgru.agnostic.protected_loss import protected_loss
from fedgru.agnostic.schedules import share_at
from fedgru.algorithms.fed_avg import ServerState
from fedgru.config.methods import Method, parse_method
from fedgru.config.settings import AgnosticSettings, Settings
from fedgru.core import seeding
from fedgru.core.types import AnyArray, AnyInts, AnyWeights, Floats, Weights
from fedgru.models import gru, heads
from fedgru.models.gru import ModelSpec

RISE = 0.5  # alpha follows its schedule in this share of the rounds, then it is constant
HEAD_DIMS = (64,)
SERVER_STEPS = 100  # of each head in each round, times the method's adversary_steps
SERVER_BATCH = 512

Constants: TypeAlias = Mapping[str, Any]  # of a round, see `Protection.before_round`


class _HasClients(Protocol):
    @property
    def clients(self) -> SplitClients: ...


class StatesEngine(Protocol):
    """What a Protection needs of an engine."""

    @property
    def task(self) -> _HasClients: ...

    def hidden_states(
        self, weights: Weights, first_positions: Any, end_positions: Any, wanted: Any
    ) -> Any: ...


class ProtectedTask(Protocol):
    """What is needed of a task to make or use its weights."""

    @property
    def settings(self) -> Settings: ...

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def protection(self) -> "Protection | None": ...


@dataclass(frozen=True)
class Protection:
    """How a run hides a concept from its representation.

    Attributes:
        concept: Concept.
        method: Method.
        trade_off: TradeOff, the final alpha or lambda.
        schedule: a key of SCHEDULES.
        rounds: the run's maximum number of rounds.
        server_head: whether the server trains the heads before each round, on the states of the
            whole cohort, and clients do not train them. A real server would have to see the states:
            it is a simulation, and the run reports that.
        seed: the run's seed.
    """

    concept: Concept
    method: Method
    trade_off: TradeOff
    schedule: str
    rounds: int
    server_head: bool
    seed: int

    @property
    def num_values(self) -> int:
        return len(self.concept.values)

    def strength_at(self, round_num: int) -> float:
        """Return a round's alpha or lambda: rising first, then the final one."""
        return self.trade_off.at(share_at(self.schedule, self._progress(round_num)))

    def loss_weights(self, strength: AnyArray) -> tuple[AnyArray, AnyArray]:
        """Return (target_weight, reversal) for the alpha, or lambda, of a round."""
        return self.trade_off.loss_weights(strength)

    def is_risen(self, round_num: int) -> bool:
        """Whether a round ran with the final strength; only such a round can be the best one.

        Round 0, before training, had no strength; at final strength 0 it can be the best one too,
        as in an ordinary run.
        """
        risen = self.strength_at(round_num) == self.trade_off.at(share_at(self.schedule, 1.0))
        return risen and (round_num > 0 or self.trade_off.value == 0)

    def _progress(self, round_num: int) -> float:
        rising = RISE * self.rounds - 1  # rounds from the first to the first with the final value
        return 1.0 if rising <= 0 else min(1.0, max(round_num - 1, 0) / rising)

    def init_weights(self, hidden_dim: int) -> Weights:
        """Return the additional weights: heads, eraser, size of the noise.

        They have their own random draws, so that the model's weights are those of an ordinary run.
        """
        weights = self._fresh_heads(hidden_dim, 0)
        if self.method.erase:
            weights["erase_mean"] = np.zeros(hidden_dim, np.float32)
            weights["erase_removed"] = np.zeros((hidden_dim, hidden_dim), np.float32)
        if self.method.noise:
            weights["noise_scale"] = np.zeros((), np.float32)
        return weights

    def before_round(
        self, engine: StatesEngine, state: ServerState, cohort: AnyInts
    ) -> tuple[ServerState, Constants]:
        """Prepare a round: do what the server computes from sums, or simulates.

        The noise's size and the means of Fourier features come from sums over clients, which
        clients can send without their states. The heads of `server_head` need the states.

        Args:
            engine: Engine, for the states.
            state: ServerState.
            cohort: int [cohort].

        Returns:
            (ServerState, constants): constants holds "alpha", the round's alpha or lambda, and
            "means" for `protected_loss` or None.
        """
        weights: Weights = dict(state.weights)
        round_num = state.round_num + 1
        strength = self.strength_at(round_num)
        means = None
        if strength > 0 and (self.method.noise or self.method.dependence or self.server_head):
            hidden, labels = self._train_states(engine, weights, cohort)
            if self.method.noise:
                weights["noise_scale"] = np.zeros((), np.float32)
                spread = np.sqrt(np.asarray(gru.represent(weights, hidden, 0.0)).var(0).mean())
                weights["noise_scale"] = np.array(strength * self.method.noise * spread, np.float32)
            draw = seeding.rng(self.seed, "protection", round_num)
            noise = draw.standard_normal(hidden.shape).astype(np.float32)
            seen = np.asarray(gru.represent(weights, hidden, noise))
            if self.method.dependence:
                means = pooled.kernel_means(seen, draw)
            if self.server_head:
                weights |= self._teach_heads(weights, seen, labels, round_num, draw)
        constants = {"alpha": np.float32(strength), "means": means}
        return ServerState(weights, state.optimizer, state.round_num), constants

    def held_still(self, weights: AnyWeights) -> dict[str, AnyArray]:
        """Return the weights, without a gradient for those that clients do not train. JAX."""
        import jax

        own, head_weights = heads.split_heads(weights)
        still = ("erase_mean", "erase_removed", "noise_scale")
        own = {n: jax.lax.stop_gradient(w) if n in still else w for n, w in own.items()}
        if self.server_head:
            head_weights = {n: jax.lax.stop_gradient(w) for n, w in head_weights.items()}
        return own | head_weights

    def step_loss(
        self,
        weights: AnyWeights,
        target_loss: AnyArray,
        representation: AnyArray,
        labels: AnyArray,
        constants: Constants,
    ) -> tuple[AnyArray, tuple[AnyArray, AnyArray, AnyArray]]:
        """Return a local step's whole loss, and the sums of `ClientUpdate.protected`. JAX.

        Args:
            weights: from `held_still`.
            target_loss: float32 [], mean over the step's targets.
            representation: float32 [seq_len, batch, hidden_dim].
            labels: int32 [seq_len, batch], -1 in padding and where unknown.
            constants: from `before_round`.

        Source: Jia et al. 2018, equation (1).
        """
        target_weight, reversal = self.loss_weights(constants["alpha"])
        counts = (labels >= 0).reshape(-1).astype(representation.dtype)
        protected, (head_loss, num_correct) = protected_loss(
            self.method,
            weights,
            representation.reshape(-1, representation.shape[-1]),
            labels.reshape(-1),
            self.num_values,
            counts,
            reversal,
            constants["means"],
        )
        num = counts.sum()
        return target_weight * target_loss + protected, (head_loss * num, num_correct, num)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The keys of `round_metrics`, in this order."""
        return ("alpha", "head_loss", "head_acc@1") if self.method.adversaries else ("alpha",)

    def round_metrics(self, constants: Constants, sums: AnyArray) -> dict[str, float]:
        """Return alpha, or lambda, and the first head's loss and accuracy in training.

        Args:
            constants: from `before_round`.
            sums: float [3], see `ClientUpdate.protected`.
        """
        num = sums[2] if sums[2] > 0 else float("nan")
        values = (float(constants["alpha"]), float(sums[0] / num), float(sums[1] / num))
        return dict(zip(self.metric_names, values, strict=False))

    def after_round(self, engine: StatesEngine, state: ServerState, cohort: AnyInts) -> ServerState:
        """Return the ServerState with the eraser that fits its weights, if the method has one.

        The eraser is made from sums over clients, see `Moments`. If alpha, or lambda, is above 0 it
        erases completely: a probe recovers a smaller trace as well as a large one.
        """
        if not self.method.erase or self.strength_at(state.round_num) == 0:
            return state
        hidden, labels = self._train_states(engine, state.weights, cohort)
        eraser = fit_eraser(Moments.of(hidden, labels, self.num_values))
        made = {
            "erase_mean": eraser.mean.astype(np.float32),
            "erase_removed": eraser.removed.astype(np.float32),
        }
        return ServerState(state.weights | made, state.optimizer, state.round_num)

    def _train_states(
        self, engine: StatesEngine, weights: Weights, cohort: AnyInts
    ) -> tuple[Floats, AnyInts]:
        """Return hidden states and labels at all train positions of a cohort."""
        clients = engine.task.clients
        first, end = clients.bounds("train")
        taken = np.isin(np.arange(len(clients)), cohort)
        end = np.where(taken, end, first)
        positions = np.concatenate([np.arange(*ends) for ends in zip(first, end, strict=True)])
        hidden = engine.hidden_states(weights, first, end, positions)
        return hidden, self.concept.labels[positions]

    def _fresh_heads(self, hidden_dim: int, round_num: int) -> Weights:
        return heads.init_heads(
            seeding.rng(self.seed, "protected heads", round_num),
            self.method.adversaries,
            hidden_dim,
            HEAD_DIMS,
            self.num_values,
        )

    def _teach_heads(
        self,
        weights: Weights,
        seen: Floats,
        labels: AnyInts,
        round_num: int,
        draw: np.random.Generator,
    ) -> Weights:
        _, own = heads.split_heads(weights)
        if self.method.resets:
            every = max(1, self.rounds // self.method.resets)
            if round_num % every == 0:
                turn = (round_num // every) % self.method.adversaries
                own = heads.reset_head(own, turn, self._fresh_heads(seen.shape[1], round_num))
        known = np.flatnonzero(labels >= 0)
        steps = SERVER_STEPS * self.method.adversary_steps
        batches = known[draw.integers(0, len(known), (steps, SERVER_BATCH))]
        return pooled.teach(own, self.method.adversaries, seen, labels, batches)


def make_protection(
    settings: Settings, check_ins: LabelledCheckIns, clients: SplitClients
) -> Protection | None:
    """Return the settings' Protection, or None without one; errors as in `make_concept`."""
    agnostic, loop = settings.agnostic, settings.loop
    if agnostic.agnostic_to is None:
        return None
    concept = make_concept(
        agnostic.agnostic_to, check_ins, clients, agnostic.zones, settings.loop.seed
    )
    method = parse_method(agnostic.method)
    return Protection(
        concept=concept,
        method=method,
        trade_off=TradeOff("alpha", agnostic.alpha)
        if agnostic.protected_weight is None
        else TradeOff("lambda", agnostic.protected_weight),
        schedule=agnostic.alpha_schedule,
        rounds=loop.rounds,
        server_head=has_server_head(agnostic, concept.one_per_client),
        seed=loop.seed,
    )


def has_server_head(agnostic: AgnosticSettings, one_per_client: bool) -> bool:
    """Return whether the server trains the heads under these AgnosticSettings.

    With `protected_head` auto it does where clients cannot: if each client has only one value of
    the concept, as with `client`, or if the heads take several steps per local step.
    """
    method = parse_method(agnostic.method)
    if not method.adversaries:
        return False
    if agnostic.protected_head == "auto":
        return one_per_client or method.adversary_steps > 1
    return agnostic.protected_head == "server"


def init_weights(task: ProtectedTask) -> Weights:
    """Return all start weights of a run: the model's, and the protection's if there is one."""
    settings = task.settings
    weights = task.spec.init_weights(seeding.rng(settings.loop.seed, "weights"))
    if task.protection is not None:
        weights |= task.protection.init_weights(task.spec.hidden_dim)
    return weights


def represent(task: ProtectedTask, weights: Weights, hidden: Floats, split: str) -> Floats:
    """Return a split's hidden states as the heads see them, float32, of the same shape.

    If the method adds noise, it is drawn with the run's seed: two evaluations give the same.
    """
    noise = None
    if "noise_scale" in weights:
        draw = seeding.rng(task.settings.loop.seed, f"representation noise {split}")
        noise = draw.standard_normal(hidden.shape).astype(np.float32)
    return np.asarray(gru.represent(weights, hidden, noise))
