"""Drawing without a screen. matplotlib is imported when something is drawn."""


def new_figure(rows, columns, width, height, **options):
    """Return a figure of width x height inches and its axes, [rows, columns].

    Options are those of matplotlib's `Figure.subplots`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)
