"""What the tests of simulated time share: traces, and a run that was stopped."""

import pytest

from fedgru.data import datasets
from fedgru.runs import folder as run_folder
from fedgru.runs import listing
from fedgru.workflows import train as train_workflow

RESULTS = ("metrics.csv", "best.npz", "last.npz", "faults.csv")


def results(run):
    return {n: (run.path / n).read_bytes() for n in RESULTS if (run.path / n).exists()}


@pytest.fixture
def trace(tmp_path):
    """Write a trace of (client's place, start, end); return its path."""

    def write(task, *rows):
        lines = [f"{task.clients.client_ids[c]},{begin},{end}" for c, begin, end in rows]
        file = tmp_path / "trace.csv"
        file.write_text("\n".join(["client,start,end", *lines]) + "\n")
        return str(file)

    return write


@pytest.fixture
def stopped(make_task, tiny_data_set, tmp_path, monkeypatch):
    """Train to the end, and the same stopped after a round; return (run, stopped run)."""
    monkeypatch.setattr(datasets, "open_data_set", lambda *_: tiny_data_set)

    def make(after=1, **overrides):
        task = make_task(**{"rounds": 4, "patience": 0} | overrides)
        facts = {"fingerprint": "tiny"}
        whole, _, _ = train_workflow.train(task, facts, tmp_path / "whole")
        real = run_folder.RunFolder.record_round

        def record(self, round_num, row, seconds):
            real(self, round_num, row, seconds)
            if round_num == after + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(run_folder.RunFolder, "record_round", record)
            with pytest.raises(train_workflow.Interrupted):
                train_workflow.train(task, facts, tmp_path / "log")
        return whole, listing.open_run(tmp_path / "log")

    return make
