"""An algorithm of one's own, both halves: clients with weight decay, a server that clips the mean.

Run: python examples/own_algorithm.py
"""

import numpy as np

import fedgru
from fedgru.algorithms.server_optimizers import SGD

DECAY = 0.1
MAX_NORM = 0.5


def decay(weight, received):
    """What a client adds to the gradient of each weight. Arithmetic alone, see ClientRule."""
    return DECAY * weight


class ClippedFedAvg(fedgru.FedAvg):
    """FedAvg whose mean update is scaled down to a norm of at most MAX_NORM."""

    name = "clipped_fed_avg"

    def mean_update(self, total):
        """See FedAvg.mean_update."""
        mean = super().mean_update(total)
        norm = np.sqrt(sum(np.square(update).sum() for update in mean.values()))
        scale = np.float32(min(1.0, MAX_NORM / norm))
        return {name: scale * update for name, update in mean.items()}


def main(log_dir="log"):
    settings = fedgru.make_settings(
        users=12, rounds=3, hidden_dim=32, prior="markov", mean="clients", client_lr=0.01
    )
    rule = fedgru.ClientRule(client_lr=0.01, local_epochs=4, correction=decay)
    clipped = ClippedFedAvg(SGD(1.0), rule)
    own = fedgru.train(settings, algorithm=clipped, log_dir=log_dir, evaluate=False)
    plain = fedgru.train(settings, log_dir=log_dir, evaluate=False)
    for run in (own, plain):
        print(run, run.facts["computes_with"])
        print(run.rounds["val/loss/micro"])
    return own, plain


if __name__ == "__main__":
    main()
