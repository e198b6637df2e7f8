"""Drawing without a screen. matplotlib is imported when something is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure


def new_figure(
    rows: int, columns: int, width: float, height: float, **options: Any
) -> tuple[Figure, npt.NDArray[np.object_]]:
    """Return a figure of width x height inches and its axes, [rows, columns].

    Options are those of matplotlib's `Figure.subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
