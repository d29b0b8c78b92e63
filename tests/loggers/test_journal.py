"""The journal: whole lines only, cut on resume, read by step."""

import json

import pytest

from dynamics.loggers.journal import Journal


def filled(tmp_path):
    journal = Journal(tmp_path / "wandb" / "journal.jsonl")
    assert journal.begin(0) == []
    for step, values in ((1, {"a": 1.0}), (0, {"b": 2.0}), (2, {"a": 3.0}), (1, {"b": float("nan"), "a": 4.0})):
        journal.append(step, values)
    return journal


def test_values_of_a_step_come_together_and_the_newer_one_counts(tmp_path):
    entries = filled(tmp_path).read()
    assert [entry.step for entry in entries] == [0, 1, 2]
    assert entries[1].values["a"] == 4.0
    assert str(entries[1].values["b"]) == "nan"
    assert entries[1].time > 1e9


def test_a_resume_forgets_what_lies_after_its_step(tmp_path):
    filled(tmp_path)
    journal = Journal(tmp_path / "wandb" / "journal.jsonl")
    assert [entry.step for entry in journal.begin(1)] == [0, 1]
    journal.append(2, {"a": 5.0})
    assert [entry.values for entry in journal.read()][2] == {"a": 5.0}
    assert journal.is_whole


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"step": 3, "time": 0, "values": {"a": 1.0}})[:-5],
        *("3\n", "null\n", '{"stap": 3, "time": 0, "values": {}}\n', '{"step": 3, "time": 0, "values": 5}\n'),
    ],
)
def test_a_line_that_is_half_written_or_damaged_is_left_out(tmp_path, line):
    journal = filled(tmp_path)
    with journal.path.open("ab") as file:
        file.write(line.encode())
    assert [entry.step for entry in journal.read()] == [0, 1, 2]
    again = Journal(journal.path)
    again.begin(3)
    again.append(3, {"a": 6.0})
    assert again.read()[-1].values == {"a": 6.0}


def test_a_journal_that_begins_in_the_middle_of_a_run_does_not_stand_for_all_of_it(tmp_path):
    journal = Journal(tmp_path / "journal.jsonl")
    journal.begin(5)
    journal.append(6, {"a": 1.0})
    assert not journal.is_whole
    again = Journal(tmp_path / "journal.jsonl")
    again.begin(6)
    assert not again.is_whole
