"""A run's predictions as a DataFrame: at what hour of the day is the model right?

Run: python examples/predictions_as_a_table.py
"""

import pandas as pd

import fedgru


def main(log_dir="log"):
    run = fedgru.train(users=12, rounds=2, hidden_dim=32, prior="markov", log_dir=log_dir)
    table = run.predictions
    print(table.head())
    check_ins = run.task.check_ins
    local = pd.to_datetime(check_ins.local_time_s[table["row"].to_numpy()], unit="s")
    by_hour = (table["rank"] == 1).groupby(local.hour).agg(["mean", "size"])
    print(by_hour.rename(columns={"mean": "acc@1", "size": "targets"}))
    client = run.clients.index[0]
    print(f"{client} goes next to:")
    print(pd.DataFrame(run.predict(client, top=3)["top"]))
    return by_hour


if __name__ == "__main__":
    main()
