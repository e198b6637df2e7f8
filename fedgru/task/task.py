"""Task: clients + inputs + targets + prior + model shapes, checked to fit before round 1."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from fedgru.agnostic.protection import Protection, make_protection
from fedgru.algorithms import attacks, robust
from fedgru.algorithms.backdoor import Backdoor
from fedgru.config import InputSettings, Settings
from fedgru.config.feature_names import parse_features, with_asked
from fedgru.core import seeding
from fedgru.core.errors import ConfigError, DataError
from fedgru.core.trees import map_arrays
from fedgru.core.types import AnyInts, Bools, Doubles, Floats, Int32s, Ints
from fedgru.data.checkins import CheckIns
from fedgru.data.datasets import DataSet
from fedgru.models.candidate_head import (
    HEAD_DIM,
    HEAD_DROPOUT,
    CandidateSpec,
    Scored,
    Trained,
)
from fedgru.models.gru import ModelSpec
from fedgru.models.own import OwnSpec
from fedgru.models.own_inputs import ModelInputs
from fedgru.task import (
    candidate_features,
    candidates,
    features,
    priors,
    stored,
    streams,
    unlisted,
    vocabulary,
)
from fedgru.task.backdoor import choose_backdoor
from fedgru.task.clients import ClientEnds, Clients, CoverageLine, Ends, choose_clients
from fedgru.task.kernel_prior import Kernel, fit_kernel, kernel_prior
from fedgru.task.preparation import Preparation
from fedgru.task.protocols import choose_by_protocol

KEPT_SHARE = 0.25  # of the clients in a cohort: below it, kept data is seldom used again


@dataclass(frozen=True)
class LocalData:
    """One client's training data for one round, local step by local step.

    Attributes:
        rows: int32 [steps, batch, seq_len, num_id_features], table rows, -1 unknown or padding.
        numbers: float32 [steps, batch, seq_len, num_numbers].
        targets: int32 [steps, batch, seq_len]; 0 in padding.
        mask: float32 [steps, batch, seq_len], 1 where there is a target, 0 in padding and where
            the target's class is missing.
        beside: what the head reads beside the state: with head dense the log prior, float32 [steps,
            batch, seq_len, num_classes], or None without a prior; with head candidates a Trained,
            and the targets are places among the candidates.
        protected: int32 [steps, batch, seq_len], label of the protected concept, -1 in padding
            and where it is unknown; None without one.
        passes: how often the steps are run; the state is zero at the start of each.
        num_examples: targets trained on in one round, counting each pass.
        resets: see `streams.Batches`.
    """

    rows: Int32s
    numbers: Floats
    targets: AnyInts
    mask: Floats
    beside: Floats | Trained | None
    protected: AnyInts | None
    passes: int
    num_examples: int
    resets: Bools | None = None


@dataclass(frozen=True, eq=False)
class Known:
    """Values computed together with a task's parts; valid for a task of exactly these parts.

    Attributes:
        clients, classes: the parts.
        values: {property of Task: value}, out of `shared`, `unknown_rates`, `num_known`,
            `backdoor`.
    """

    clients: Clients
    classes: Int32s
    values: dict[str, Any]


@dataclass(frozen=True)
class Task:
    """What is learnt, from whom: the one value that engines and evaluation read.

    Attributes:
        settings: Settings.
        check_ins: CheckIns, all of the data set.
        clients: Clients.
        inputs: Inputs of every position.
        target_vocabulary: Vocabulary of the target; class = id - 1.
        classes: int32 [num_positions], class of each position as a target, -1 if it has none: see
            `fedgru.task.unlisted`.
        target_codes: int32 [num_positions], the target column as the data set codes it.
        num_target_codes: how many codes there are.
        history: History of all positions, client after client. Its classes are those of the past.
        kernel: the Kernel that the clients have learnt, with `prior` kernel; else None.
        best_prob: float32 [num_positions], the chance of the best possible predictor to be right
            there, for the categories of a made-up city; else None.
        coverage: list of CoverageLine, what each step kept.
        protection: Protection, with `agnostic_to`; else None.
        training_clients: int64, the clients with at least one local step; cohorts are drawn
            from these.
        stored_parts: the StoredParts of a large data set, which these were taken from; else None.
        fitted: Fitted, where it was given instead of fitted on these clients; else None.
        known: Known, or None; what is not in it is computed when it is asked for.
        data_name, fingerprint: of the data set.
    """

    settings: Settings
    check_ins: CheckIns
    clients: Clients
    inputs: features.Inputs
    target_vocabulary: vocabulary.Vocabulary
    classes: Int32s
    target_codes: Int32s
    num_target_codes: int
    history: priors.History
    kernel: Kernel | None
    best_prob: Floats | None
    coverage: list[CoverageLine]
    protection: Protection | None
    training_clients: Ints
    stored_parts: stored.StoredParts | None = None
    fitted: features.Fitted | None = None
    known: Known | None = None
    data_name: str = ""
    fingerprint: str = ""

    def release(self) -> None:
        """Release the memory of what was read of a large data set; it can be read again."""
        if self.stored_parts is not None and self.stored_parts.folder is not None:
            self.stored_parts.folder.release()

    def read(
        self, names: Sequence[str], positions: slice | AnyInts | int
    ) -> list[npt.NDArray[Any]]:
        """Return some arrays at some positions, a slice or int of any shape, as a list.

        Of a large data set they are read from its file, see `mapped.Records`.

        Args:
            names: out of `stored.OF_A_CLIENT`.
            positions: not negative.
        """
        if self._large is not None:
            return self._large.records.read(names, positions)
        return [self._own_arrays[name][positions] for name in names]

    def read_clients(self, clients: list[int]) -> dict[int, list[npt.NDArray[Any]]]:
        """Return {client: what it is trained on} of a list of clients, for `local_data`.

        That is a list of arrays over all of its check-ins: `stored.LEARNT_FROM`, and with a prior
        `stored.HISTORY`. Clients of a large data set are read all at once, which takes less time
        than one by one; for any other data set the dict is empty.
        """
        if self._large is None or not clients:
            return {}
        begins, *_, ends = self.ends(np.array(clients))
        records, names = self._large.records, self._learnt_from
        arrays = records.read_ranges(names, begins.tolist(), ends.tolist())
        until = np.cumsum(ends - begins)
        bounds = zip((until - ends + begins).tolist(), until.tolist(), strict=True)
        own = ([array[begin:end] for array in arrays] for begin, end in bounds)
        return dict(zip(clients, own, strict=True))

    @cached_property
    def _learnt_from(self) -> tuple[str, ...]:
        has_prior = self.settings.inputs.prior != "none"
        return stored.OF_A_CLIENT if has_prior else stored.LEARNT_FROM

    def ends(self, chosen: slice | AnyInts) -> Ends:
        """Return the Ends of several clients: a slice or an array of indices, not negative."""
        if self._large is not None and not isinstance(chosen, slice):
            return Ends(*self._large.ends.at(chosen))
        return self.clients.ends(chosen)

    def client_ends(self, client: int) -> ClientEnds:
        """Return the ClientEnds of one client; its index is not negative."""
        if self._large is not None:
            return ClientEnds(*self._large.ends.at(client))
        clients = self.clients
        found = clients.starts, clients.train_ends, clients.val_ends, clients.starts[1:]
        return ClientEnds(*(int(positions[client]) for positions in found))

    def draw(self, generator: np.random.Generator, number: int) -> Ints:
        """Return int64 [number], ascending: different training clients, drawn at random."""
        places = np.sort(generator.choice(len(self.training_clients), number, replace=False))
        if self._large is not None:
            return self._large.drawn_from.at(places)[0]
        return self.training_clients[places]

    @cached_property
    def _own_arrays(self) -> dict[str, npt.NDArray[Any]]:
        return stored.arrays_of_a_client(self)

    @cached_property
    def _large(self) -> stored.Large | None:
        """How single clients are read; None where the parts are not exactly the stored ones."""
        whole = self.stored_parts
        if whole is None or whole.large is None:
            return None
        names = ("clients", "inputs", "classes", "history", "training_clients")
        same = all(getattr(self, n) is getattr(whole, n) for n in names)
        return whole.large if same else None

    @property
    def num_listed(self) -> int:
        """How many classes are on the list: the target's values that train has."""
        return len(self.target_vocabulary)

    @property
    def num_classes(self) -> int:
        """Those on the list, and after them the unlisted ones, see `fedgru.task.unlisted`."""
        return self.num_listed + unlisted.num_unlisted(self.settings)

    @cached_property
    def spec(self) -> ModelSpec:
        """ModelSpec: the shapes of the weights; with `model` it opens that, see `OwnSpec.of`."""
        model, inputs, layout = self.settings.model, self.inputs, self.settings.layout
        has_prior = self.settings.inputs.prior != "none"
        if model.head == "candidates":
            return self._candidate_spec
        if model.model is not None:
            asked = ModelInputs(
                tuple(inputs.sizes.items()),
                inputs.number_names,
                self.num_classes,
                layout.batch_size,
                layout.seq_len,
            )
            return OwnSpec.of(model.model, asked, has_prior)
        return ModelSpec(
            cell=model.cell,
            num_rows=self.inputs.num_rows,
            num_numbers=self.inputs.numbers.shape[1],
            hidden_dim=model.hidden_dim,
            num_classes=self.num_classes,
            dropout=model.dropout,
            has_prior=has_prior,
        )

    @property
    def _candidate_spec(self) -> CandidateSpec:
        model, inputs = self.settings.model, self.inputs
        by_class = self.settings.inputs.target == "category"
        return CandidateSpec(
            cell=model.cell,
            num_rows=inputs.num_rows,
            num_numbers=inputs.numbers.shape[1],
            hidden_dim=model.hidden_dim,
            num_classes=self.num_classes,
            dropout=model.dropout,
            has_prior=True,
            head_dim=HEAD_DIM if model.head_dim is None else model.head_dim,
            head_dropout=HEAD_DROPOUT if model.head_dropout is None else model.head_dropout,
            num_features=len(self._feature_set.features),
            num_context=len(self._feature_set.context),
            num_kinds=1 + (self.num_classes if by_class else 1),
        )

    @property
    def _feature_set(self) -> candidate_features.FeatureSet:
        return candidate_features.feature_set(self.settings.inputs.asked_at)

    @cached_property
    def shared(self) -> Doubles:
        """float64 [num_classes], the frequencies that all clients share.

        With differential privacy they are noised; with no noise for that they are all equal.
        """
        if self.fitted is not None:
            return self.fitted.shared
        if self.settings.privacy.is_on:
            return self._private_frequencies()
        if "shared" in self._known_values:
            return self._known_values["shared"]
        train = self.classes[self.clients.in_split("train")]
        return priors.shared_frequencies(train, self.num_classes)

    def _private_frequencies(self) -> Doubles:
        noise, number = self.settings.privacy.dp_setup_noise, self.num_classes
        if noise is None:
            return np.full(number, 1 / number)
        own = [
            self.classes[start:end]
            for start, end in zip(*self.clients.bounds("train"), strict=True)
        ]
        draw = seeding.rng(self.settings.loop.seed, "shared frequencies")
        return priors.noised_frequencies(own, number, noise, draw)

    @cached_property
    def unknown_rates(self) -> dict[str, dict[str, float]]:
        """See `features.unknown_rates`."""
        if "unknown_rates" in self._known_values:
            return self._known_values["unknown_rates"]
        return features.unknown_rates(self.inputs, self.clients)

    @cached_property
    def num_known(self) -> dict[str, int]:
        """{split: int}, how many of its targets, in val and test of those who are scored, are of a
        class that train has."""
        if "num_known" in self._known_values:
            return self._known_values["num_known"]
        return stored.num_known(self.classes, self.clients)

    def known_through_others(self) -> dict[str, int]:
        """Return {split: int}: targets of val and test whose class no scored client has in train.

        They are of a known class only because others train too, with `train_users`.
        """
        scored, found = self.clients.scored, {}
        classes = self.classes[: len(scored.rows)]
        own = np.append(np.zeros(self.num_classes, bool), True)  # -1 is not known at all
        own[np.unique(classes[scored.in_split("train")])] = True
        own[self.num_listed :] = True  # an unlisted value is the client's own
        for split in ("val", "test"):
            found[split] = int((~own[classes[scored.target_positions(split)]]).sum())
        return found

    @property
    def _known_values(self) -> dict[str, Any]:
        known = self.known
        if known is None or known.clients is not self.clients or known.classes is not self.classes:
            return {}
        return known.values

    @cached_property
    def preparation(self) -> Preparation:
        """Preparation: whose priors and candidates this task has computed."""
        return Preparation()

    @cached_property
    def _client_priors(self) -> dict[tuple[int, str], priors.ClientPrior]:
        return {}

    def with_kernel(self, on_round: Callable[[int, float], object] | None = None) -> "Task":
        """Return the task with the kernel that the clients learn on their train splits.

        With differential privacy it is learnt with noise; with no noise for that it is that of the
        start.

        The same task if its prior needs no kernel, or it has one already.

        Args:
            on_round: see `fit_kernel`.
        """
        if self.settings.inputs.prior != "kernel" or self.kernel is not None:
            return self
        own = zip(*self.clients.bounds("train"), strict=True)
        loop, privacy = self.settings.loop, self.settings.privacy
        if privacy.is_on and privacy.dp_setup_noise is None:
            return replace(self, kernel=Kernel.start(self.settings.inputs.asked_at))
        histories = [self.history[start:end] for start, end in own]
        kernel = fit_kernel(
            histories,
            self.shared,
            loop.seed,
            loop.threads,
            on_round,
            asked_at=self.settings.inputs.asked_at,
            noise=privacy.dp_setup_noise,
        )
        return replace(self, kernel=kernel)

    @cached_property
    def validation_clients(self) -> Ints | None:
        """int64 [eval_clients], ascending: the clients validated in each round.

        None for all that are scored. The same for every seed, so that runs are compared on the
        same check-ins.
        """
        return _draw_validation(self.settings, self.clients.scored)

    @property
    def cohorts_recur(self) -> bool:
        """Whether a client takes part so often that its prepared data is kept."""
        cohort = self.settings.loop.clients_per_round
        return cohort is None or KEPT_SHARE * len(self.training_clients) <= cohort

    def _recurs(self, client: int) -> bool:
        """Whether a client is used again soon, in a round or in validation."""
        return self.cohorts_recur or self._validated is None or client in self._validated

    @cached_property
    def _validated(self) -> frozenset[int] | None:
        drawn = self.validation_clients
        if drawn is not None:
            return frozenset(drawn.tolist())
        number = self.clients.num_scored
        return None if number is None else frozenset(range(number))

    @cached_property
    def attackers(self) -> frozenset[int]:
        """Indices of the clients that send malicious updates, with `attack`; else empty."""
        return attacks.draw_attackers(self.settings, self.training_clients)

    @cached_property
    def backdoor(self) -> Backdoor | None:
        """The Backdoor that the liars plant, with `attack` backdoor; else None."""
        if self.settings.faults.attack != "backdoor":
            return None
        if "backdoor" in self._known_values:
            return self._known_values["backdoor"]
        return choose_backdoor(
            self.settings.faults,
            self.check_ins.category,
            self.history.categories[self.clients.in_split("train")],
            self.target_vocabulary,
            self.classes[self.clients.in_split("train")],
        )

    def client_prior(
        self, client: int, kind: str, own: priors.History | None = None
    ) -> priors.ClientPrior:
        """Return the ClientPrior of a client; it is kept if the client is used again.

        Args:
            client: index of the client.
            kind: of running counts, or "kernel".
            own: History of the client; None reads it.
        """
        if (client, kind) in self._client_priors:
            return self._client_priors[client, kind]
        if own is None:
            start, *_, end = self.client_ends(client)
            own = priors.History(*self.read(stored.HISTORY, slice(start, end)))
        with self.preparation.computing("priors", client):
            if kind == "kernel":
                assert self.kernel is not None, "the kernel is learnt by with_kernel"
                prior = kernel_prior(self.kernel, own, self.shared)
            else:
                asked_at = self.settings.inputs.asked_at
                prior = priors.count_prior(kind, own, self.shared, asked_at)
        if self._recurs(client):
            self._client_priors[client, kind] = prior
        return prior

    def log_prior(
        self,
        client: int,
        pairs: slice | AnyInts,
        kind: str | None = None,
        own: priors.History | None = None,
    ) -> Floats:
        """Return float32 [num_pairs, num_classes], log p(next) by the personal prior.

        Args:
            client, own: as for `client_prior`.
            pairs: int [num_pairs] or a slice; pair j predicts the client's check-in j + 1.
            kind: which prior; the run's own by default.
        """
        kind = kind or self.settings.inputs.prior
        return self.client_prior(client, kind, own).log_probs(self.shared, pairs)

    def batches(self, client: int, local_epochs: int | None = None) -> streams.Batches:
        """Return the Batches of a client's train pairs in the run's layout.

        Args:
            client: its index.
            local_epochs: of its client rule; None takes the settings'.
        """
        start, train_end, *_ = self.client_ends(client)
        layout, epochs = self.settings.layout, local_epochs or self.settings.client.local_epochs
        sizes = layout.batch_size, layout.seq_len, epochs
        if self.clients.session_starts is not None:
            return streams.sessions(self.clients.session_starts[start + 1 : train_end], *sizes)
        return streams.LAYOUTS[layout.layout](max(train_end - start - 1, 0), *sizes)

    def local_data(
        self,
        client: int,
        own: list[npt.NDArray[Any]] | None = None,
        local_epochs: int | None = None,
    ) -> LocalData:
        """Return the LocalData of one client.

        Args:
            client: its index.
            own: what `read_clients` has for it; None reads it now.
            local_epochs: of its client rule; None takes the settings'.
        """
        start, train_end, _, end = self.client_ends(client)
        num_pairs = max(train_end - start - 1, 0)
        batches = self.batches(client, local_epochs)
        pairs = np.maximum(batches.pairs, 0)
        if own is None:
            own = self.read(self._learnt_from, slice(start, end))
        classes, rows, numbers, *history = own
        padded = batches.pairs < 0
        targets = np.where(padded, -1, classes[pairs + 1])
        if client in self.attackers:
            targets = self._as_a_liar_has_them(targets, start + pairs)
        beside: Floats | Trained | None = None
        if isinstance(self.spec, CandidateSpec):
            past = priors.History(*history)
            known = targets >= 0
            beside, places = self.trained_candidates(client, pairs, np.maximum(targets, 0), past)
            targets = np.where(known, places, -1)
        elif self.spec.has_prior:
            past = priors.History(*history)
            beside = self.log_prior(client, slice(num_pairs), own=past)[pairs]
        return LocalData(
            rows=np.where(padded[..., None], -1, rows[pairs]),
            numbers=numbers[pairs],
            targets=np.maximum(targets, 0),
            mask=(targets >= 0).astype(np.float32),
            beside=beside,
            protected=self._protected(start + pairs, padded),
            passes=batches.passes,
            num_examples=int((targets >= 0).sum()) * batches.passes,
            resets=batches.resets,
        )

    def beside(self, client: int, pairs: AnyInts) -> Any:
        """Return what the head reads beside the states, for `ModelSpec.logits`.

        Args:
            client: its index.
            pairs: int [num_pairs], ascending; pair j predicts the client's check-in j + 1.
        """
        if not isinstance(self.spec, CandidateSpec):
            return self.log_prior(client, pairs) if self.spec.has_prior else None
        found = self.client_candidates(client, pairs)
        return Scored(found.candidates, found.classes, self.log_prior(client, pairs))

    def client_candidates(self, client: int, pairs: AnyInts) -> candidates.ClientCandidates:
        """Return the ClientCandidates at some pairs, int [num_pairs], ascending, of a client.

        They are kept if the client is used again.
        """
        pairs = np.asarray(pairs, np.int64)
        first, end = (int(pairs[0]), int(pairs[-1]) + 1) if len(pairs) else (0, 0)
        kept = self._client_candidates.get(client)
        if kept is None or not kept[0] <= first <= end <= kept[0] + len(kept[1]):
            start, *_, stop = self.client_ends(client)
            own = priors.History(*self.read(stored.HISTORY, slice(start, stop)))
            kept = first, self._make_candidates(client, own, first, end)
            if self._recurs(client):
                self._client_candidates[client] = kept
        return kept[1][pairs - kept[0]]

    @cached_property
    def _client_candidates(self) -> dict[int, tuple[int, candidates.ClientCandidates]]:
        return {}

    def _make_candidates(
        self, client: int, own: priors.History, first: int, end: int
    ) -> candidates.ClientCandidates:
        """Compute the candidates of pairs `first` to `end`."""
        kind = self.settings.inputs.prior
        prior = self.client_prior(client, kind, own)[:end]
        backoff = self.client_prior(client, "backoff", own)[:end]
        with self.preparation.computing("candidates", client):
            return candidates.client_candidates(
                own[: end + 1],
                self.shared,
                prior,
                backoff,
                common_classes=self.settings.inputs.target == "category",
                first=first,
                feature_set=self._feature_set,
            )

    def trained_candidates(
        self, client: int, pairs: AnyInts, targets: AnyInts, own: priors.History | None = None
    ) -> tuple[Trained, Int32s]:
        """Return the Trained of some train pairs of a client, and the places of its targets.

        Args:
            client: its index.
            pairs: int [...], as for `beside`, in any order.
            targets: int [...], the class that each pair is trained on; not negative.
            own: History of the client; None reads it.

        Returns:
            (Trained [...], int32 [...]: which candidate each target is).
        """
        start, train_end, _, end = self.client_ends(client)
        if own is None:
            own = priors.History(*self.read(stored.HISTORY, slice(start, end)))
        num_pairs = max(train_end - start - 1, 0)
        found = self._make_candidates(client, own, 0, num_pairs)[pairs.reshape(-1)]
        flat = targets.reshape(-1)
        places = found.places(flat)
        log_prior = self.client_prior(client, self.settings.inputs.prior, own).log_prob_of(
            self.shared, pairs.reshape(-1), flat
        )
        log_within = np.where(places == 0, log_prior - found.candidates.log_prior[:, 0], 0)
        trained = Trained(
            found.candidates,
            log_within.astype(np.float32),
            found.log_top,
            (found.classes[:, 0] == flat).astype(np.float32),
        )
        shape = pairs.shape
        return (
            map_arrays(lambda array: array.reshape(*shape, *array.shape[1:]), trained),
            places.reshape(shape),
        )

    def _as_a_liar_has_them(self, targets: AnyInts, inputs_at: AnyInts) -> AnyInts:
        """Return the targets that a liar trains on, of the inputs at some positions."""
        if self.settings.faults.attack == "label-flip":
            return attacks.flip_labels(targets, self.num_listed)
        if self.backdoor is None:
            return targets
        (categories,) = self.read(["history.categories"], inputs_at)
        return self.backdoor.poison(targets, categories)

    def _protected(self, inputs_at: AnyInts, padded: Bools) -> AnyInts | None:
        if self.protection is None:
            return None
        return np.where(padded, -1, self.protection.concept.labels[inputs_at])


def build_task(
    data_set: DataSet,
    settings: Settings,
    kernel: Kernel | None = None,
    fitted: features.Fitted | None = None,
) -> Task:
    """Build the Task of a data set; the parts of a large one are stored in its folder.

    Args:
        data_set: DataSet.
        settings: Settings.
        kernel: with `prior` kernel, the Kernel of an earlier run; with None `Task.with_kernel`
            learns it.
        fitted: Fitted, in place of what would be fitted on the train splits; None fits it.

    Returns:
        Task.

    Raises:
        ConfigError: if the settings ask for what the data does not hold.
        DataError: if nothing is left to train on.
    """
    if fitted is None:
        parts = stored.open_or_make(data_set, settings, lambda: _prepare(data_set, settings))
    else:
        parts = _prepare(data_set, settings, fitted)
    if data_set.maps is not None:
        data_set.maps.release()
    check_ins, clients, training_clients = (
        data_set.check_ins,
        parts.clients,
        parts.training_clients,
    )
    validated, num_scored = settings.loop.eval_clients, len(clients.scored)
    if validated is not None and validated > num_scored:
        raise ConfigError(
            f"`eval_clients` is {validated}, but there are {num_scored} clients"
            f"{'' if clients.num_scored is None else ' that are scored'}. Leave it out to validate "
            "on all."
        )
    cohort = settings.loop.clients_per_round
    if cohort is not None and cohort > len(training_clients):
        raise ConfigError(
            f"`clients_per_round` is {cohort}, but the split has {len(training_clients)} clients "
            "with training data."
        )
    _check_cohort(settings, cohort or len(training_clients), len(training_clients))
    task = Task(
        settings=settings,
        check_ins=check_ins,
        clients=clients,
        inputs=parts.inputs,
        target_vocabulary=parts.target_vocabulary,
        classes=parts.classes,
        target_codes=parts.target_codes,
        num_target_codes=len(getattr(check_ins, settings.inputs.target).values),
        history=parts.history,
        kernel=kernel,
        best_prob=parts.best_prob,
        coverage=_with_validated(parts.coverage, settings, clients.scored),
        protection=make_protection(settings, check_ins, clients),
        training_clients=training_clients,
        stored_parts=None if parts.folder is None else parts,
        fitted=fitted,
        known=Known(clients, parts.classes, parts.known),
        data_name=data_set.name,
        fingerprint=data_set.passport.get("fingerprint", ""),
    )
    _ = task.backdoor  # refuses names that are not there
    return task


def _with_validated(
    coverage: Sequence[CoverageLine], settings: Settings, clients: Clients
) -> list[CoverageLine]:
    """Return the coverage with a line on `eval_clients` after the one on validation."""
    drawn, lines = _draw_validation(settings, clients), []
    for line in coverage:
        lines.append(line)
        if line.step == "val targets" and drawn is not None:
            targets = len(clients.target_positions("val", drawn))
            lines.append(CoverageLine("  scored in each round", len(drawn), targets))
    return lines


def _check_columns(data_set: DataSet, inputs_settings: InputSettings, names: Sequence[str]) -> None:
    """Refuse features and a target whose columns the data set does not have."""
    missing = [name for name in names if not has_column(data_set, name)]
    if inputs_settings.target == "category" and not has_column(data_set, "category"):
        missing.append("category")
    for column in sorted({"category", "raw_category"} & set(missing)):
        raise ConfigError(
            f"data set {data_set.name} has no {column.replace('_', ' ')}, which `features` "
            f"{inputs_settings.features} and `target` {inputs_settings.target} ask for. Use "
            "`target` venue with `features` user,venue,clock,weekday, or import it again "
            "with a category column."
        )
    for column in sorted({"latitude", "longitude"} & set(missing)):
        raise ConfigError(
            f"data set {data_set.name} has no {column}, which `features` "
            f"{inputs_settings.features} asks for. Leave it out, or import the data again with "
            f"--column {column}=NAME."
        )


def has_column(data_set: DataSet, name: str) -> bool:
    """Return whether a data set has the column that a feature or a target needs, if it needs one.

    Args:
        data_set: DataSet.
        name: of a feature, as `parse_features` returns it, or of a target.
    """
    check_ins = data_set.check_ins
    if name in ("category", "raw_category"):
        return len(getattr(check_ins, name).values) > 0
    if name in ("latitude", "longitude"):
        degrees = check_ins.lat_deg if name == "latitude" else check_ins.lon_deg
        return bool(np.isfinite(degrees).any())
    return True


def _prepare(
    data_set: DataSet, settings: Settings, fitted: features.Fitted | None = None
) -> stored.StoredParts:
    """Make the StoredParts of a data set in a pass over every check-in. Errors as `build_task`."""
    check_ins, inputs_settings = data_set.check_ins, settings.inputs
    names = with_asked(parse_features(inputs_settings.features), inputs_settings.asked_at)
    _check_columns(data_set, inputs_settings, names)
    data = settings.data
    if data.protocol is not None:
        clients, coverage = choose_by_protocol(check_ins, data.protocol, data.num_users)
    else:
        clients, coverage = choose_clients(
            check_ins, data.num_users, data.min_checkins, data.train_users, data.session_gap_s
        )
    column = getattr(check_ins, inputs_settings.target)
    if fitted is None:
        target_vocabulary = vocabulary.from_train(column, clients.rows[clients.in_split("train")])
    else:
        ids = {value: number for number, value in enumerate(fitted.classes, start=1)}
        target_vocabulary = vocabulary.from_ids(column, ids, len(ids))
    target_codes = column.codes[clients.rows]
    num_unlisted = unlisted.num_unlisted(settings)
    classes, past_classes = unlisted.number_unlisted(
        target_vocabulary.encode(target_codes) - 1,
        target_codes,
        clients.starts,
        len(target_vocabulary),
        num_unlisted,
    )
    num_trained = _count_trained(settings, clients, classes)
    training_clients = np.flatnonzero(num_trained)
    if not len(training_clients):
        raise DataError(
            f"none of the {len(clients)} clients has enough check-ins for one local step with "
            f"`layout` {settings.layout.layout}, `batch_size` {settings.layout.batch_size}, "
            f"`seq_len` {settings.layout.seq_len}."
        )
    for split, who in clients.by_split().items():
        positions = who.target_positions(split)
        owners = len(np.unique(who.client_of[positions]))
        coverage.append(CoverageLine(f"{split} targets", owners, len(positions)))
        if split == "train":
            line = CoverageLine(
                "  used for training", len(training_clients), int(num_trained.sum())
            )
            coverage.append(line)

    def codes(name: str) -> Int32s:  # the same array twice, so that it is written to the disk once
        is_target = name == inputs_settings.target
        return target_codes if is_target else getattr(check_ins, name).codes[clients.rows]

    best_prob = None
    if data_set.best_prob is not None and inputs_settings.target == "category":
        best_prob = data_set.best_prob[clients.rows]
    history = priors.History(
        classes=past_classes,
        categories=codes("category"),
        venues=codes("venue"),
        time_s=check_ins.time_s[clients.rows],
        local_time_s=check_ins.local_time_s[clients.rows],
        lat_deg=check_ins.lat_deg[clients.rows],
        lon_deg=check_ins.lon_deg[clients.rows],
    )
    return stored.StoredParts(
        clients=clients,
        inputs=features.build_inputs(
            check_ins,
            clients,
            names,
            inputs_settings.clock,
            inputs_settings.vocabulary,
            inputs_settings.scaling == "standard",
            fitted,
        ),
        target_vocabulary=target_vocabulary,
        num_classes=len(target_vocabulary) + num_unlisted,
        classes=classes,
        target_codes=target_codes,
        history=history,
        best_prob=best_prob,
        training_clients=training_clients,
        coverage=tuple(coverage),
        known={},
    )


def _draw_validation(settings: Settings, clients: Clients) -> Ints | None:
    number = settings.loop.eval_clients
    if number is None:
        return None
    draw = seeding.rng(0, "validation clients")
    return np.sort(draw.choice(len(clients), number, replace=False))


def _check_cohort(settings: Settings, cohort: int, num_training: int) -> None:
    """Refuse settings that ask for more usable updates, or attackers, than there are clients."""
    if settings.faults.min_clients > cohort:
        raise ConfigError(
            f"`min_clients` is {settings.faults.min_clients}, but a round has {cohort} clients."
        )
    robust.check_cohort(settings.server, settings.availability.buffer_size or cohort)
    if (settings.faults.attackers or 0) > num_training:
        raise ConfigError(
            f"`attackers` is {settings.faults.attackers}, but the split has {num_training} clients "
            "with training data."
        )


def _count_trained(settings: Settings, clients: Clients, classes: Int32s) -> Ints:
    """How many different targets of known class each client trains on, int64 [num_clients]."""
    layout = settings.layout
    first, end = clients.target_bounds("train")
    num_pairs, positions = end - first, clients.ends().positions("train")
    is_trained = streams.is_trained_on(
        layout.layout,
        positions - np.repeat(first, num_pairs),
        np.repeat(num_pairs, num_pairs),
        layout.batch_size,
        layout.seq_len,
        settings.client.local_epochs,
    )
    is_trained &= clients.are_targets(positions) & (classes[positions] >= 0)
    up_to = np.concatenate([[0], np.cumsum(is_trained)])
    ends = np.cumsum(num_pairs)
    return up_to[ends] - up_to[ends - num_pairs]
