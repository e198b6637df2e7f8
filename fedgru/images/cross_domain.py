"""Cross-domain classification: test a network on contexts that it never saw, and the reverse.

Source: Jia et al. 2018, section 4.3, figure 2.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fedgru.images import training as image_training
from fedgru.images.data import ImageData
from fedgru.images.settings import ImageSettings


def run(
    settings: ImageSettings,
    data: ImageData,
    seed: int,
    on_epoch: Callable[[], object] | None = None,
) -> list[dict[str, Any]]:
    """Train two independent networks, on targets and on contexts; test both on both hold-outs.

    Matching classes of targets and contexts have the same number, so the answers of one network
    can be compared with the labels of the other.

    Args:
        settings: ImageSettings.
        data: ImageData.
        seed: int.
        on_epoch: called without arguments after each epoch of each network.

    Returns:
        list of {"network", "seed", "epoch", "on_target", "on_context"}: accuracies, 0 to 1.
    """
    rows = []
    for network, name in (("target", "train"), ("context", "context_train")):
        images, labels = data.sets[name].images, getattr(data.sets[name], network)

        def record(epoch: int, trained: image_training.Network, network: str = network) -> None:
            row = {"network": network, "seed": seed, "epoch": epoch}
            for what, holdout in (("target", "holdout"), ("context", "context_holdout")):
                held = data.sets[holdout]
                scores = trained.target_scores(trained.mean_representation(held.images))
                hits = np.asarray(scores).argmax(1) == getattr(held, what)
                row[f"on_{what}"] = float(hits.mean())
            rows.append(row)
            if on_epoch is not None:
                on_epoch()

        image_training.train_ordinary(
            settings, images, labels, len(data.target_names), seed, record
        )
    return rows
