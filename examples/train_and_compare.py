"""Train two models of the made-up city, and compare them with counting, client by client.

Run: python examples/train_and_compare.py
"""

import fedgru

SMALL = {"users": 12, "rounds": 3, "hidden_dim": 32, "prior": "markov"}


def report_round(round_num, row):
    """Print each round as it is written down; a text returned here would stop training."""
    print(f"round {round_num}: validation loss {row['val/loss/micro']:.3f}")


def main(log_dir="log"):
    gru = fedgru.train(**SMALL, name="gru", log_dir=log_dir, on_round=report_round)
    lstm = fedgru.train(**SMALL, cell="lstm", name="lstm", log_dir=log_dir)
    counting = fedgru.baseline("running-markov", users=SMALL["users"], log_dir=log_dir)
    print(gru)
    print(gru.rounds[["train/loss/micro", "val/loss/micro", "val/acc@1/micro"]])
    table = fedgru.compare([counting, gru, lstm], metrics=["acc@1", "acc@5"])
    print(table["acc@1"])
    return table


if __name__ == "__main__":
    main()
