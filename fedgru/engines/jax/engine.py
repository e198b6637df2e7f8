"""The fast engine: each client on its own rows, all local steps in one go, threads over clients.

A client changes only the table rows of its own values: for all others the gradient is zero, and
with Adam the moments too. So each client is given its own rows and sends back only those, which is
exact and much less work. The C code of `fedgru/engines/jax/native` runs its local steps; clients
are queued as soon as they are prepared. Where the C code cannot be used, XLA compiles
`local_steps.run_steps`, whose number of steps is an argument, so that clients of all lengths share
a few compilations. On a GPU clients are stacked, and one call trains many.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.algorithms.client_rule import ClientRule
from fedgru.algorithms.client_start import ClientStart, Starts, own_weights
from fedgru.algorithms.fed_avg import ClientUpdate
from fedgru.config.settings import Settings
from fedgru.core import seeding
from fedgru.core.errors import ConfigError
from fedgru.core.jax_setup import import_jax, num_threads, on_device, pick_device
from fedgru.core.trees import arrays_in
from fedgru.core.types import AnyInts, Doubles, Floats, Ints, KeyWords, Weights
from fedgru.engines.base import Constants, Engine
from fedgru.engines.jax import loop_speed, stacked
from fedgru.engines.jax.forward_pass import Form, ForwardPasses, Part, places_among
from fedgru.engines.jax.local_steps import JaxWeights, Steps, run_steps
from fedgru.engines.jax.native import calls as native
from fedgru.engines.jax.native import compiler
from fedgru.engines.jax.prepared import Prepared, prepare
from fedgru.models import gru
from fedgru.models.cells import CELLS
from fedgru.models.optimizers import init_slots
from fedgru.task.task import Task

KEPT_BYTES = 1 << 29  # of prepared clients that are kept; the others are prepared in each round
READ_AT_ONCE = 128  # clients
STARTS_AT_ONCE = 4  # of each thread: clients whose own start weights are in memory
FORWARD_ROWS = 16  # of each thread
FORWARD_SEQ_LEN = 64


class JaxEngine(Engine[Task]):
    """See the module's docstring.

    Args:
        task, client_rule: see Engine.
        heeds_speeds: whether `local_loop` auto takes the loop that was faster on this machine; else
            it takes the C code wherever that can be used.
    """

    name = "jax"
    compiles_with_jax = True

    @classmethod
    def check_here(cls, settings: Settings) -> None:
        """See Engine.check_here."""
        pick_device(settings.loop.device)
        if settings.loop.local_loop == "native":
            try:
                compiler.load()
            except native.Unavailable as error:
                raise _without_native(error) from error

    def __init__(
        self, task: Task, client_rule: ClientRule | None = None, heeds_speeds: bool = True
    ) -> None:
        super().__init__(task, client_rule)
        self._jax = import_jax()
        loop = task.settings.loop
        self.device = pick_device(loop.device)
        self.threads = num_threads(loop.threads)
        whole_cohort = len(task.clients)
        one_by_one = self.device.platform == "cpu" or self.client_rule.by_client
        self.clients_per_call = loop.clients_per_call or (1 if one_by_one else whole_cohort)
        self._prepared: dict[int, Prepared] = {}
        self._kept_bytes = 0
        self._speeds: loop_speed.LoopSpeeds | None = None  # once they are known
        self._loaded, self._why_not_native = self._load_native(loop.local_loop)
        self._use(self._loaded)
        if heeds_speeds and self._may_choose:
            self._take_faster(loop_speed.find_kept(*self._measured_for))
        self.local_loops_compiled = 0  # counted at each tracing, for tests

    def __str__(self) -> str:
        where = f"{self.threads} threads" if self.threads > 1 else "1 thread"
        if self.clients_per_call > 1:
            where += f", up to {self.clients_per_call} clients in a call"
        found = f", {self._speeds}" if self._speeds is not None else ""
        return f"{self.name} on {self.device.device_kind} ({where}; {self.what_runs_steps}{found})"

    @property
    def computes_with(self) -> str:
        """See Engine.computes_with."""
        return f"{self.name} on {self.device.device_kind}, {self.what_runs_steps}"

    @property
    def what_runs_steps(self) -> str:
        """What runs local steps, in words; if it is not the C code, why not."""
        if self._native is not None:
            return "local steps in C"
        why = f": {self._why_not_native}" if self._why_not_native else ""
        return f"local steps by XLA{why}"

    @property
    def prefers_xla(self) -> bool:
        """Whether XLA runs local steps although the C code could."""
        return self._native is None and self._loaded is not None

    @property
    def _may_choose(self) -> bool:
        return self.task.settings.loop.local_loop == "auto" and self._loaded is not None

    @property
    def _measured_for(self) -> tuple[str, str]:
        """Return the arguments of `loop_speed.find_kept`."""
        assert self._loaded is not None, "asked only where both loops can run"
        return self._loaded.library.digest, loop_speed.sizes(
            self.task, self.client_rule, self.threads
        )

    def choose_local_loop(self, began_with: str | None = None) -> None:
        """See Engine.choose_local_loop."""
        if not self._may_choose:
            return
        if began_with is not None:  # the same loop, so that the last digits are the same
            self._use(None if began_with.endswith("local steps by XLA") else self._loaded)
            return
        if self._speeds is not None:
            return
        speeds = self._measure()
        if speeds is not None:
            loop_speed.keep(*self._measured_for, speeds)
            self._take_faster(speeds)

    def _measure(self) -> loop_speed.LoopSpeeds | None:
        """Return LoopSpeeds; None if training ends before a faster XLA loop would pay."""
        rng = seeding.rng(0, "loop speed")
        own_rows = min(self.task.spec.num_rows, loop_speed.OWN_ROWS)
        clients = [loop_speed.make_up_client(self.task, own_rows, rng) for _ in range(self.threads)]
        keys = [self.dropout_key(0, client) for client in range(self.threads)]
        weights = loop_speed.start_weights(self.task, own_rows)
        assert self._loaded is not None, "asked only where both loops can run"
        for_c = [prepare(client, for_xla=False) for client in clients]
        in_c = loop_speed.seconds_in_c(self._loaded, weights, for_c, keys)
        epochs = self.client_rule.local_epochs
        if loop_speed.run_seconds(self.task, epochs, self.threads, in_c) < loop_speed.WORTH_S:
            return None

        def train(data: Prepared, key: KeyWords) -> Any:
            start = ClientStart(own_weights(weights, data.row_ids))
            return self._train_by_xla(start, None, data, key)

        for_xla = [prepare(client) for client in clients]
        return loop_speed.LoopSpeeds(in_c, loop_speed.seconds_by_xla(train, for_xla, keys))

    def _take_faster(self, speeds: loop_speed.LoopSpeeds | None) -> None:
        self._speeds = speeds
        if speeds is not None and not speeds.native_is_faster:
            self._use(None)

    def _use(self, native_code: native.NativeCode | None) -> None:
        """Use a NativeCode for local steps and forward passes from now on; None: XLA."""
        self._native = native_code
        self._prepared.clear()  # each loop has a form of its own
        self._kept_bytes = 0
        form = (
            Form(FORWARD_ROWS, FORWARD_ROWS, FORWARD_SEQ_LEN, True)
            if native_code is None
            else native.FORWARD_FORM
        )
        self._passes = ForwardPasses(self.task, self.threads, form)

    def _load_native(self, wanted: str) -> tuple[native.NativeCode | None, str | None]:
        """Return (NativeCode, None); or (None, the reason), without one if XLA was asked for."""
        if wanted == "xla":
            return None, None
        try:
            return native.load(
                self.task, self.client_rule, self.device, self.clients_per_call
            ), None
        except native.Unavailable as error:
            if wanted == "native":
                raise _without_native(error) from error
            return None, f"the C code cannot be used, {error}"

    def local_updates(
        self,
        weights: Weights,
        cohort: AnyInts,
        round_num: int,
        constants: Constants | None = None,
        starts: Starts | None = None,
    ) -> Iterator[ClientUpdate]:
        """See Engine.local_updates."""
        clients = [int(client) for client in cohort]
        if self._native is not None:
            yield from self._train_natively(self._native, weights, clients, round_num, starts)
            return
        if starts is not None:
            yield from self._train_from(starts, clients, round_num, constants)
            return
        dense = {name: w for name, w in weights.items() if name != "rows"}
        one_by_one = self.clients_per_call == 1
        with on_device(self.device):  # once for all clients
            dense = self._jax.device_put(dense)
        train: Callable[..., Any] = partial(
            self._train_client if one_by_one else self._train_stack,
            dense,
            weights["rows"],
            round_num,
            constants,
        )
        with ThreadPoolExecutor(self.threads) as pool:
            if one_by_one:
                yield from pool.map(train, clients)
                return
            prepared = [self._prepare(client) for client in clients]
            shapes = [(data.num_table, data.steps * data.passes) for data in prepared]
            groups = stacked.group(shapes, self.clients_per_call)
            trained = pool.map(train, [[clients[i] for i in group] for group in groups])
            found = [update for updates in trained for update in updates]
        places = np.argsort([index for group in groups for index in group])
        yield from (found[place] for place in places)

    def _train_from(
        self, starts: Starts, cohort: list[int], round_num: int, constants: Constants | None
    ) -> Iterator[ClientUpdate]:
        """Yield the ClientUpdate of each client from its own ClientStart, a few at a time."""

        def train(client: int) -> ClientUpdate:
            data, key = self._prepare(client), self.dropout_key(round_num, client)
            update, sums = self._train_by_xla(starts(client, data.row_ids), constants, data, key)
            return _as_update(client, data, update, sums)

        at_once = STARTS_AT_ONCE * self.threads
        with ThreadPoolExecutor(self.threads) as pool:
            for first in range(0, len(cohort), at_once):
                yield from pool.map(train, cohort[first : first + at_once])

    def _train_natively(
        self,
        native_code: native.NativeCode,
        weights: Weights,
        cohort: list[int],
        round_num: int,
        starts: Starts | None = None,
    ) -> Iterator[ClientUpdate]:
        pointed = native_code.weights(weights)
        waiting: deque[tuple[int, Prepared, native.Training]] = deque()
        with native.Cohort(native_code, pointed, self.threads, len(cohort)) as training:

            def next_update() -> ClientUpdate:
                client, data, trained = waiting.popleft()
                return _as_update(client, data, trained.update, trained.sums)

            for client, data in self._prepare_all(cohort):
                while waiting and training.wait_for(waiting[0][-1], or_room=True):
                    yield next_update()
                start = None if starts is None else starts(client, data.row_ids)
                trained = training.train(data, self.dropout_key(round_num, client), start)
                waiting.append((client, data, trained))
            while waiting:
                training.wait_for(waiting[0][-1])
                yield next_update()

    def _train_client(
        self,
        dense: JaxWeights,
        table: Floats,
        round_num: int,
        constants: Constants | None,
        client: int,
    ) -> ClientUpdate:
        data, key = self._prepare(client), self.dropout_key(round_num, client)
        start = ClientStart(own_weights({**dense, "rows": table}, data.row_ids))
        update, sums = self._train_by_xla(start, constants, data, key)
        return _as_update(client, data, update, sums)

    def _train_by_xla(
        self, start: ClientStart, constants: Constants | None, data: Prepared, key: KeyWords
    ) -> tuple[Weights, Floats]:
        """Return the update of a client, name -> array, and its five sums."""

        def padded(own: Weights | None) -> JaxWeights | None:
            if own is None:
                return None
            rows = np.zeros((data.num_table, own["rows"].shape[1]), np.float32)
            rows[: len(data.row_ids)] = own["rows"]
            return {**own, "rows": rows}

        with on_device(self.device):
            steps = Steps(
                data.arrays,
                key,
                data.steps,
                data.steps * data.passes,
                constants,
                resets=data.resets,
                offset=padded(start.offset),
                anchor=padded(start.anchor),
            )
            update, sums = self._local_loop(padded(start.weights), steps)
        return {name: np.asarray(u) for name, u in update.items()}, np.asarray(sums)

    def _train_stack(
        self,
        dense: JaxWeights,
        table: Floats,
        round_num: int,
        constants: Constants | None,
        clients: list[int],
    ) -> list[ClientUpdate]:
        prepared = [self._prepare(client) for client in clients]
        keys = [self.dropout_key(round_num, client) for client in clients]
        stack = stacked.stack(prepared, keys, table)
        with on_device(self.device):
            steps = Steps(
                stack.arrays,
                stack.keys,
                stack.steps_per_pass,
                stack.num_steps,
                constants,
                stack.resets,
            )
            update, sums = self._stacked_loop(
                {"rows": stack.rows, **dense}, steps._replace(at_most=stack.num_steps.max())
            )
        update = {name: np.asarray(u) for name, u in update.items()}
        sums = np.asarray(sums)
        return [
            _as_update(client, data, {name: u[at] for name, u in update.items()}, sums[at])
            for at, (client, data) in enumerate(zip(clients, prepared, strict=True))
        ]

    def dropout_key(self, round_num: int, client: int) -> KeyWords:
        """Return uint32 [2], from which a client draws its dropout in a round."""
        return seeding.key_words(self.task.settings.loop.seed, "dropout", round_num, client)

    def _prepare_all(self, cohort: list[int]) -> Iterator[tuple[int, Prepared]]:
        """Yield each client and its Prepared; many are read from the disk at once."""
        for first in range(0, len(cohort), READ_AT_ONCE):
            clients = cohort[first : first + READ_AT_ONCE]
            own_of = self.task.read_clients([c for c in clients if c not in self._prepared])
            for client in clients:
                yield client, self._prepare(client, own_of.get(client))

    def _prepare(self, client: int, own: list[npt.NDArray[Any]] | None = None) -> Prepared:
        """Return a client's Prepared; `own` as for `Task.local_data`."""
        if client in self._prepared:
            return self._prepared[client]
        local = self.task.local_data(client, own, self.client_rule.local_epochs)
        data = prepare(local, for_xla=self._native is None)
        size_bytes = sum(array.nbytes for array in arrays_in(data.arrays))
        if self.task.cohorts_recur and self._kept_bytes + size_bytes <= KEPT_BYTES:
            self._prepared[client] = data
            self._kept_bytes += size_bytes
        return data

    def beside(self, task: Task) -> "JaxEngine":
        """Return an engine of another task that shares what this one has compiled.

        The two can differ in their check-ins and in the number of rows of their tables, but in
        nothing else that a model or a local step depends on.
        """
        engine = type(self)(task, self.client_rule)
        engine._local_loop, engine._forward_step = self._local_loop, self._forward_step
        engine._stacked_loop = self._stacked_loop
        return engine

    @cached_property
    def _local_loop(self) -> Callable[..., Any]:
        return self._jax.jit(self._counted_loop)

    @cached_property
    def _stacked_loop(self) -> Callable[..., Any]:
        def loop(weights: JaxWeights, steps: Steps) -> Any:
            rows = {name: 0 if name == "rows" else None for name in weights}
            of_each_client = Steps(
                arrays=0, key=0, steps_per_pass=0, num_steps=0, resets=0, first_step=None
            )
            return self._jax.vmap(self._counted_loop, in_axes=(rows, of_each_client))(
                weights, steps
            )

        return self._jax.jit(loop)

    def _counted_loop(self, weights: JaxWeights, steps: Steps) -> tuple[JaxWeights, Any]:
        """Run a client's local steps with a fresh optimizer; return its update and five sums.

        Source: McMahan et al. 2017 (arXiv:1602.05629), Algorithm 1, ClientUpdate, with stateful
            rows: truncated backpropagation through one local step, the state carried on.
        """
        self.local_loops_compiled += 1
        task, rule = self.task, self.client_rule
        slots = init_slots(rule.optimizer, weights)
        now, _, sums = run_steps(task.spec, task.protection, rule, weights, slots, steps)
        return self._jax.tree.map(self._jax.numpy.subtract, now, weights), sums

    def hidden_states(
        self,
        weights: Weights,
        first_positions: Ints,
        end_positions: Ints,
        wanted: Ints,
        carried: bool = False,
    ) -> Floats:
        """See Engine.hidden_states. Clients are put end to end in rows of about one length.

        With `carried`, everything that is kept between check-ins: for an LSTM hidden state and
        memory, float32 [num_wanted, 2 * hidden_dim].
        """
        spec = self.task.spec
        dim = spec.hidden_dim * (CELLS[spec.cell].num_states if carried else 1)
        hidden = np.empty((len(wanted), dim), np.float32)
        if self._native is not None:
            pointed = self._native.weights(weights)
            forward = partial(self._forward_natively, self._native, pointed)
        else:
            with on_device(self.device):
                there = {name: self._jax.numpy.asarray(w) for name, w in weights.items()}
            forward = partial(self._forward, there)
        forward = partial(forward, places_among(wanted), hidden)
        with ThreadPoolExecutor(self.threads) as pool:
            list(pool.map(forward, self._passes.lay_out(first_positions, end_positions)))
        return hidden

    def _forward(
        self,
        weights: JaxWeights,
        place: Callable[[Ints], Ints],
        hidden: Floats,
        parts: Iterable[Part],
    ) -> None:
        """Write the states at the positions that have a place to `hidden`."""
        spec = self.task.spec
        state = gru.zero_state(spec.cell, spec.hidden_dim, FORWARD_ROWS)
        with on_device(self.device):
            for positions, starts, row_ids, numbers in parts:
                states, state, _ = self._forward_step(weights, row_ids, numbers, state, starts)
                asked = place(positions)
                hidden[asked[asked >= 0]] = np.asarray(states)[asked >= 0][:, : hidden.shape[1]]

    def _forward_natively(
        self,
        native_code: native.NativeCode,
        weights: native.Pointed,
        place: Callable[[Ints], Ints],
        hidden: Floats,
        parts: Iterable[Part],
    ) -> None:
        """As `_forward`."""
        state = None
        for positions, starts, row_ids, numbers in parts:
            if state is None:
                state = np.zeros((positions.shape[1], self.task.spec.hidden_dim), np.float32)
            native_code.forward(weights, row_ids, numbers, starts, place(positions), state, hidden)

    @cached_property
    def _forward_step(self) -> Callable[..., Any]:
        cell = self.task.spec.cell

        def step(weights: JaxWeights, rows: Any, numbers: Any, state: Any, starts: Any) -> Any:
            gates = gru.project(weights, rows, numbers)
            return gru.forward(cell, gates, weights["recurrent"], weights["bias"], state, starts)

        return self._jax.jit(step)


def _without_native(error: native.Unavailable) -> ConfigError:
    return ConfigError(
        f"`local_loop` native: the C code cannot be used: {error}. Use `local_loop` auto, which "
        "then takes XLA's."
    )


def _as_update(
    client: int, data: Prepared, update: Weights, sums: Floats | Doubles
) -> ClientUpdate:
    """Return the ClientUpdate of a client's change of weights (its rows padded) and five sums."""
    sums = sums.astype(np.float64)
    return ClientUpdate(
        client=client,
        num_examples=data.num_examples,
        num_steps=data.steps * data.passes,
        row_ids=data.row_ids,
        row_update=update.pop("rows")[: len(data.row_ids)],
        dense=update,
        loss_sum=float(sums[0]),
        num_correct=float(sums[1]),
        protected=sums[2:],
    )
