"""The spec of a Keras model of one's own, and its weights.

The setting `model` names a function, MODULE:NAME or an entry point `fedgru.models`. It is called
with a `ModelInputs` and returns a stateful Keras model from these inputs to scores (logits), see
`fedgru.models.own_keras.OwnModel`. The weights are a dict of float32 arrays:

    rows [num_rows, width]   the table: the first num_rows rows of the first weight of the layer
                             called "rows"; a client moves only the rows of its own ids.
                             [0, 1] if there is no such layer
    <path of a weight>       every other weight; of the weight with the table, the rows after it
    prior_scale []           only with a personal prior
"""

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from fedgru.core.types import AnyArray, AnyWeights, Floats, Weights
from fedgru.models.candidate_head import CandidateSpec
from fedgru.models.gru import ModelSpec
from fedgru.models.own_inputs import ModelInputs

if TYPE_CHECKING:
    from fedgru.models.own_keras import OwnModel


@dataclass(frozen=True)
class OwnSpec(ModelSpec):
    """The ModelSpec of a model of one's own.

    Its `cell` is the value of the setting `model`, its `hidden_dim` the columns of the
    representation, its `num_rows` those of `rows` in its weights.
    """

    inputs: ModelInputs = field(kw_only=True)

    @classmethod
    def of(cls, model: str, inputs: ModelInputs, has_prior: bool) -> "OwnSpec":
        """Open the model that the setting `model` names, check it, and return its spec.

        Args:
            model: the setting.
            inputs: ModelInputs of the run's layout.
            has_prior: whether the scaled log prior is added to the scores.

        Raises:
            ConfigError: if there is no such model, or it does not fit; see `OwnModel`.
        """
        from fedgru.models.own_keras import open_own

        own = open_own(model, inputs)
        return cls(
            cell=model,
            num_rows=own.num_rows,
            num_numbers=len(inputs.number_names),
            hidden_dim=own.hidden_dim,
            num_classes=inputs.num_classes,
            dropout=0.0,
            has_prior=has_prior,
            inputs=inputs,
        )

    @property
    def own(self) -> "OwnModel":
        """The model itself."""
        from fedgru.models.own_keras import open_own

        return open_own(self.cell, self.inputs)

    @property
    def states_dim(self) -> int:
        """See ModelSpec.states_dim: the representation, and the scores without the prior."""
        return self.hidden_dim + self.num_classes

    def init_weights(self, rng: np.random.Generator) -> Weights:
        """Return the start weights that the function's model draws, with a seed drawn from `rng`.

        See the module's docstring.
        """
        weights = self.own.init_weights(int(rng.integers(2**31)))
        if self.has_prior:
            weights["prior_scale"] = np.ones((), np.float32)
        return weights

    def representation(self, states: Floats) -> Floats:
        """See ModelSpec.representation."""
        return states[..., : self.hidden_dim]

    def carried(self, states: Floats) -> Floats:
        """See ModelSpec.carried."""
        return states[..., self.states_dim :]

    def logits(self, weights: AnyWeights, states: Floats, beside: Any = None) -> AnyArray:
        """See ModelSpec.logits."""
        scores = states[..., self.hidden_dim :]
        return scores if beside is None else scores + weights["prior_scale"] * beside


def spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """Return a spec as a dict that JSON can hold; `spec_from_dict` is the inverse."""
    return asdict(spec)


def spec_from_dict(described: dict[str, Any]) -> ModelSpec:
    """Return what `spec_to_dict` described: ModelSpec, CandidateSpec or OwnSpec.

    No model is opened.
    """
    if "head_dim" in described:
        return CandidateSpec(**described)
    if "inputs" not in described:
        return ModelSpec(**described)
    inputs = dict(described["inputs"])
    inputs["ids"] = tuple((name, size) for name, size in inputs["ids"])
    inputs["number_names"] = tuple(inputs["number_names"])
    return OwnSpec(**{**described, "inputs": ModelInputs(**inputs)})
