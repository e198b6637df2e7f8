"""Names for types that many modules share; nothing heavy is imported."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]
Doubles: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Int32s: TypeAlias = npt.NDArray[np.int32]
Bools: TypeAlias = npt.NDArray[np.bool_]
AnyInts: TypeAlias = npt.NDArray[np.integer[Any]]
KeyWords: TypeAlias = npt.NDArray[np.uint32]  # [2], the words of a JAX random key

Weights: TypeAlias = dict[str, Floats]  # name of a weight -> its array
Row: TypeAlias = dict[str, float | None]  # "split/metric/average" -> value, None without one
OnRound: TypeAlias = Callable[[int, Row], str | None]  # returns why training is to stop, or None
