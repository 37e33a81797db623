import json
from dataclasses import replace
from datetime import timedelta

import pytest

from autoprune.core.candidate import Candidate
from autoprune.core.cost import Cost, Estimate
from autoprune.core.errors import RunError, RunVersionError
from autoprune.core.trial import Trial
from autoprune.study.journal import mend
from autoprune.study.store import Event, Store

UNITS = {"a": 16, "b": 8}


def trial(number, accuracy=0.5, error=None):
    return Trial(
        number,
        Candidate.of({"a": 1 + number % 16, "b": 8}),
        Cost({"macs": Estimate(100.0 + number), "latency_ms": Estimate(1.5, 0.1, "table")}),
        metrics={} if error else {"accuracy": accuracy, "loss": 1.0},
        error=error,
        seconds=0.25,
    )


def filled(path, count=3):
    store = Store(path, "run", UNITS)
    for number in range(count):
        store.add(trial(number), "accuracy", {"surgery": 0.125})
    return store


def test_what_is_stored_is_read_back(tmp_path):
    store = filled(tmp_path / "journal.log")
    store.add(trial(3, error="evaluate raised ValueError: no"), "accuracy")
    store.record(Event("dense", 0, {"metrics": {"accuracy": 0.9}}))
    store.record(Event("verified", 4, {"trials": [1, 2]}))
    again = Store(tmp_path / "journal.log", "run", UNITS)
    found = again.trials()
    assert [s.trial for s in found[:3]] == [trial(n) for n in range(3)]
    assert found[0].phases == {"surgery": 0.125}
    assert not found[3].trial.ok
    assert found[3].trial.error == "evaluate raised ValueError: no"
    assert again.events() == [
        Event("dense", 0, {"metrics": {"accuracy": 0.9}}),
        Event("verified", 4, {"trials": [1, 2]}),
    ]


def test_events_stay_in_order_past_ten(tmp_path):
    store = Store(tmp_path / "journal.log", "run", UNITS)
    for number in range(12):
        store.record(Event("verified", number, {}))
    assert [e.after for e in store.events()] == list(range(12))


def test_trials_are_trials_of_an_optuna_study(tmp_path):
    import optuna

    filled(tmp_path / "journal.log")
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    )
    study = optuna.load_study(study_name="run", storage=storage)
    assert [t.params for t in study.trials] == [{"a": 1 + n, "b": 8} for n in range(3)]
    assert study.best_value == 0.5


def test_an_sql_database_stores_the_same(tmp_path):
    url = f"sqlite:///{tmp_path / 'runs.db'}"
    filled(url)
    other = Store(url, "another", UNITS)
    assert other.trials() == []
    assert [s.trial for s in Store(url, "run", UNITS).trials()] == [trial(n) for n in range(3)]


def test_a_storage_that_is_no_url_is_refused():
    with pytest.raises(RunError, match="must be a database URL"):
        Store("trials.db", "run", UNITS)


def test_a_database_that_is_not_there_is_refused():
    with pytest.raises(RunError, match="can't be"):
        Store("sqlite:////nonexistent/folder/x.db", "run", UNITS)


@pytest.mark.parametrize("cut", [1, 7, 40])
def test_a_half_written_last_line_is_dropped_with_a_warning(tmp_path, cut):
    path = tmp_path / "journal.log"
    filled(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: -1 - cut])
    with pytest.warns(UserWarning, match="half written"):
        store = Store(path, "run", UNITS)
    assert [s.trial.number for s in store.trials()] == [0, 1]
    store.add(trial(2), "accuracy")
    assert [s.trial for s in Store(path, "run", UNITS).trials()] == [trial(n) for n in range(3)]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    path = tmp_path / "journal.log"
    filled(path)
    path.write_bytes(path.read_bytes()[:-1])
    store = Store(path, "run", UNITS)
    store.add(trial(3), "accuracy")
    assert [s.trial.number for s in Store(path, "run", UNITS).trials()] == [0, 1, 2, 3]


def test_every_cut_of_the_journal_leaves_a_prefix_of_the_trials(tmp_path, recwarn):
    path = tmp_path / "journal.log"
    filled(path)
    raw = path.read_bytes()
    first = raw.index(b"\n", raw.index(b"\n") + 1) + 1
    for end in range(first, len(raw), 97):
        path.write_bytes(raw[:end])
        numbers = [s.trial.number for s in Store(path, "run", UNITS).trials()]
        assert numbers == list(range(len(numbers)))


def test_a_damaged_line_in_the_middle_is_an_error(tmp_path):
    path = tmp_path / "journal.log"
    filled(path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:20] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(RunError, match="line 3"):
        Store(path, "run", UNITS)


def test_an_edited_accuracy_is_an_error(tmp_path):
    path = tmp_path / "journal.log"
    filled(path)
    text = path.read_text()
    assert '"accuracy":0.5' in text
    path.write_text(text.replace('"accuracy":0.5', '"accuracy":0.99', 1))
    with pytest.raises(RunError, match="changed after it was written"):
        Store(path, "run", UNITS).trials()


def test_an_edited_event_is_an_error(tmp_path):
    path = tmp_path / "journal.log"
    Store(path, "run", UNITS).record(Event("dense", 0, {"metrics": {"accuracy": 0.9}}))
    path.write_text(path.read_text().replace("0.9", "0.8"))
    with pytest.raises(RunError, match="changed after it was written"):
        Store(path, "run", UNITS).events()


def test_entries_that_no_journal_has_are_an_error(tmp_path):
    path = tmp_path / "journal.log"
    path.write_text(json.dumps({"op_code": 4, "nonsense": 1}) + "\n")
    with pytest.raises(RunError, match="edited or damaged"):
        Store(path, "run", UNITS)


def test_a_store_of_a_newer_release_is_refused(tmp_path):
    path = tmp_path / "journal.log"
    filled(path)
    path.write_text(path.read_text().replace('"schema":1', '"schema":99'))
    with pytest.raises(RunVersionError, match="newer autoprune"):
        Store(path, "run", UNITS)


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path, monkeypatch):
    import os

    path = tmp_path / "journal.log"
    store = filled(path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(RunError, match=r"No space left on device.*resume"):
            store.add(trial(3), "accuracy")
    assert [s.trial.number for s in Store(path, "run", UNITS).trials()][:3] == [0, 1, 2]


def test_a_lock_does_not_outlive_its_process(tmp_path):
    # Optuna's own file lock would: a file left behind by a process that was killed.
    path = tmp_path / "journal.log"
    filled(path)
    (tmp_path / "journal.log.lock").write_text("")
    Store(path, "run", UNITS).add(trial(3), "accuracy")


def test_mending_what_is_not_there_does_nothing(tmp_path):
    mend(tmp_path / "journal.log")
    assert not (tmp_path / "journal.log").exists()


def test_optunas_tools_see_what_a_value_is_and_how_long_a_trial_took(tmp_path):
    import optuna

    url = f"sqlite:///{tmp_path / 'trials.db'}"
    store = Store(url, "run", UNITS)
    store.name_values("top5")
    store.name_values("top1")  # a resumed run finds it named
    store.add(replace(trial(0), seconds=90.0), "accuracy")
    study = optuna.load_study(study_name="run", storage=url)
    assert study.metric_names == ["top5"]
    assert study.best_trial.duration == timedelta(seconds=90)
