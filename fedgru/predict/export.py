"""A run's model as a folder: what `fedgru export` writes, and how it is read.

model.json      what the model reads and answers (`Schema`), and where it comes from
model.keras     --to keras: the stateful Keras model, one stream, one check-in a call
saved_model/    --to savedmodel: the same for TensorFlow, with functions `serve` and `reset_state`
weights.npz     --to weights: the arrays of fedgru/models/gru.py, without those only training
                needs; of a model of one's own those of fedgru/models/own.py
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from fedgru.core.errors import ConfigError, RunError
from fedgru.core.types import Weights
from fedgru.core.version import __version__
from fedgru.models.heads import split_heads
from fedgru.models.own import OwnSpec
from fedgru.predict.load import load_model
from fedgru.predict.schema import Schema
from fedgru.runs.folder import RunFolder
from fedgru.storage.folders import mend, writing_folder
from fedgru.task.task import Task
from fedgru.workflows.personal import check_has_model

KINDS = ("keras", "savedmodel", "weights")
DESCRIPTION, WEIGHTS = "model.json", "weights.npz"


def export_run(
    run: RunFolder,
    task: Task,
    kind: str,
    output: str | Path,
    overwrite: bool = False,
    client: str | None = None,
    names: bool = False,
) -> dict[str, Any]:
    """Write the weights of a run's best round as a folder, whole or not at all.

    Args:
        run: RunFolder.
        task: the run's Task.
        kind: "keras", "savedmodel" or "weights".
        output: path of the new folder.
        overwrite: replace an earlier export there.
        client: see `load_model`.
        names: whether users have their ids as names in model.json; else pseudonyms, by which
            nobody finds the weights of a user.

    Returns:
        dict that model.json holds.

    Raises:
        ConfigError: if all clients share one model and `client` is given, or there is no such
            client; if Keras does not run on TensorFlow, which Keras models need.
        RunError: if the folder cannot be written, or is there already; if the run has no model
            that all clients share.
    """
    output = Path(output)
    if output.exists() and not (overwrite and (output / DESCRIPTION).is_file()):
        advice = "or add `overwrite`" if (output / DESCRIPTION).is_file() else "it is no export"
        raise RunError(f"{output} is there already: choose another `output`, {advice}.")
    if client is not None:
        check_has_model(run, task, client)
    if task.settings.data.session_gap is not None:
        raise ConfigError(
            f"{run.path} was trained with `session_gap`: an exported model carries its state on "
            "and would not begin sessions. Use fedgru predict."
        )
    schema, weights, round_num = load_model(run, task, client)
    weights, _ = split_heads(weights)
    named = list if names else run.pseudonyms
    if "user" in schema.vocabularies:
        users = schema.vocabularies["user"]
        renamed = dict(zip(named(users), users.values(), strict=True))
        schema = replace(schema, vocabularies=schema.vocabularies | {"user": renamed})
    facts = run.facts()
    description = {
        "run": run.path.name,
        **({} if client is None else {"client": named([client])[0]}),
        "round": round_num,
        "data": facts["data"],
        "fingerprint": facts["fingerprint"],
        "fedgru": __version__,
        "kind": kind,
        **schema.to_dict(),
    }
    model = None if kind == "weights" else build_model(schema, weights)
    try:
        with writing_folder(output, overwrite) as new:
            text = json.dumps(description, indent=2, ensure_ascii=False, allow_nan=False)
            (new / DESCRIPTION).write_text(text + "\n", "utf-8")
            _WRITERS[kind](new, model, weights, schema)
    except OSError as error:
        raise RunError(f"{output} cannot be written: {error.strerror or error}.") from None
    return description


def open_export(folder: str | Path) -> Schema:
    """Return the Schema of an exported model, which describes its inputs and outputs.

    Raises:
        RunError: if there is no export.
        DataError: if it is one of another format.
    """
    file = Path(folder, DESCRIPTION)
    mend(file.parent.parent, file.parent.name)
    try:
        return Schema.from_dict(json.loads(file.read_text("utf-8")))
    except FileNotFoundError:
        raise RunError(f"{folder} is no export: it has no {DESCRIPTION}.") from None


def load_weights(folder: str | Path) -> Weights:
    """Return {name: float32 array} of an export that was made with --to weights.

    Raises:
        RunError: if it has none.
    """
    file = Path(folder, WEIGHTS)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except FileNotFoundError:
        raise RunError(
            f"{folder} has no {WEIGHTS}. Make one with: fedgru export RUN --to weights"
        ) from None


def build_model(schema: Schema, weights: Weights) -> Any:
    """Return the stateful Keras model: one stream, one check-in a call, probabilities out.

    Args:
        schema: Schema.
        weights: name -> float32 array.

    Raises:
        ConfigError: if Keras does not run on TensorFlow.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or TensorFlow prints a greeting to stderr
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ConfigError(
            f"`kind` keras and `kind` savedmodel need Keras on TensorFlow, but KERAS_BACKEND is "
            f"{keras.backend.backend()}. Unset KERAS_BACKEND, or use `kind` weights."
        )
    network = keras_of(schema)
    model = network.build(schema.spec, schema, represents=schema.representation)
    network.set_weights(model, weights)
    return model


def keras_of(schema: Schema) -> Any:
    """Return what builds a schema's Keras model: `keras_gru`, or an OwnModel of the same form."""
    from fedgru.models import keras_gru

    return schema.spec.own if isinstance(schema.spec, OwnSpec) else keras_gru


def _write_keras(folder: Path, model: Any, weights: Weights, schema: Schema) -> None:
    model.save(folder / "model.keras")


def _write_saved_model(folder: Path, model: Any, weights: Weights, schema: Schema) -> None:
    import tensorflow as tf
    from keras.export import ExportArchive

    network = keras_of(schema)
    signature = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in model.input.items()
    }
    archive = ExportArchive()
    archive.track(model)
    archive.add_endpoint("serve", model.__call__, input_signature=[signature])
    archive.add_endpoint("reset_state", lambda: _reset(network, model), input_signature=[])
    archive.write_out(folder / "saved_model", verbose=False)


def _reset(network: Any, model: Any) -> Any:
    import tensorflow as tf

    network.reset_state(model)
    return tf.constant(True)


def _write_weights(folder: Path, model: Any, weights: Weights, schema: Schema) -> None:
    np.savez(folder / WEIGHTS, **weights)  # type: ignore[arg-type]  # none is `allow_pickle`


_WRITERS = {"keras": _write_keras, "savedmodel": _write_saved_model, "weights": _write_weights}
