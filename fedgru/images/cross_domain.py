"""Cross-domain classification: what a network that never saw a context says of contexts.

Source: Jia et al. 2018, section 4.3, figure 2.
"""

import numpy as np

from fedgru.images import training as image_training


def run(settings, data, seed, on_epoch=None):
    """Train two independent networks, on targets and on contexts; test both on both hold-outs.

    The classes of targets and contexts that go together have the same number, so one head's
    answer can be held against the other's labels.

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

        def record(epoch, trained, network=network):
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
