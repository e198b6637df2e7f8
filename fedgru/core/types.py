"""Names for types that many modules share; nothing heavy is imported."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]
AnyFloats: TypeAlias = npt.NDArray[np.floating[Any]]
AnyInts: TypeAlias = npt.NDArray[np.integer[Any]]
KeyWords: TypeAlias = npt.NDArray[np.uint32]  # [2], the words of a JAX random key
AnyArray: TypeAlias = Any  # of NumPy, JAX or TensorFlow, or what these trace in its place

AnyPath: TypeAlias = str | Path
Weights: TypeAlias = dict[str, Floats]  # name of a weight -> its array
AnyWeights: TypeAlias = Mapping[str, AnyArray]
Row: TypeAlias = dict[str, float | None]  # "split/metric/average" -> value, None without one
OnRound: TypeAlias = Callable[[int, Row], str | None]  # returns why training is to stop, or None
Columns: TypeAlias = dict[str, npt.NDArray[Any]]  # name of a column -> its array
