"""Task files and batches: every published layout, similar lengths, a pure function of seed and step."""

import json
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamics.data import examples
from dynamics.data.examples import Answer, Example
from dynamics.data.task_table import TASKS, find
from dynamics.data.tasks import TaskData
from dynamics.data.tokens import encode, grouped
from dynamics.errors import InputError
from tests import tuning


def load(folder, task):
    return examples.load(find(task), Path(folder))


def written(folder, task, content, name="train.tsv"):
    """A folder whose train and validation are both `content`."""
    folder.mkdir(exist_ok=True)
    for split in ("train", "dev"):
        (folder / name.replace("train", split)).write_text(content)
    return load(folder, task)["train"]


# Files

SENTENCE = [Example(('it is "good"',), 1), Example(("bad",), 0)]
PAIR = [Example(("a film", "the film"), 1), Example(("a", "the plot"), 0)]


@pytest.mark.parametrize(
    ("task", "name", "content", "expected"),
    [
        ("sst2", "train.tsv", 'it is "good"\t1\nbad\t0\n', SENTENCE),
        ("sst2", "train.tsv", 'sentence\tlabel\nit is "good"\t1\nbad\t0', SENTENCE),
        ("sst2", "train.tsv", 'label\tsentence\r\npositive\tit is "good"\r\nnegative\tbad\r\n', SENTENCE),
        ("sst2", "train.json", '[{"text": "it is \\"good\\"", "label": 1}, {"text": "bad", "label": 0}]', SENTENCE),
        ("sst2", "train.jsonl", '{"sentence": "it is \\"good\\"", "label": 1}\n{"sentence": "bad", "label": 0}\n', SENTENCE),  # noqa: E501
        ("cola", "train.tsv", 'gj04\t1\t\tit is "good"\ngj04\t0\t*\tbad\n', SENTENCE),
        ("mrpc", "train.tsv", "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\ta film\tthe film\n0\t7\t8\ta\tthe plot\n", PAIR),  # noqa: E501
        ("rte", "train.tsv", "index\tsentence1\tsentence2\tlabel\n0\ta film\tthe film\tnot_entailment\n1\ta\tthe plot\tentailment\n", PAIR),  # noqa: E501
        ("qqp", "train.tsv", "id\tquestion1\tquestion2\tis_duplicate\n0\ta film\tthe film\t1\n1\ta\tthe plot\t0\n", PAIR),  # noqa: E501
        ("stsb", "train.tsv", "main\tMSR\t2012\t0\t1\ta film\tthe film\nmain\tMSR\t2012\t1\t0\ta\tthe plot\textra\n", PAIR),  # noqa: E501
    ],
)  # fmt: skip
def test_every_published_layout_is_read(tmp_path, task, name, content, expected):
    assert written(tmp_path / "data", task, content, name) == expected


def test_broken_rows_are_left_out_and_named_once(tmp_path, caplog):
    """QQP is published with rows that are broken in two."""
    head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
    rows = [f'{i}\t{i}\t{i}\tis "{i}" odd?\tis {i} not even?\t{i % 2}\n' for i in range(5)]
    broken = [*rows[:3], '7\t8\t9\twhat is "this\n', '"\twhat is it?\t0\n', *rows[3:]]
    (tmp_path / "train.tsv").write_text(head + "".join(broken))
    (tmp_path / "dev.tsv").write_text(head + "".join(rows))
    data = TaskData("qqp", str(tmp_path))
    data.setup()
    assert data.examples["train"] == data.examples["validation"]
    assert [example.texts[0] for example in data.examples["train"]] == [f'is "{i}" odd?' for i in range(5)]
    (said,) = [entry.getMessage() for entry in caplog.records]
    place = f"of {tmp_path / 'train.tsv'} has"
    assert said == (
        f"data.task qqp: 2 rows are left out (line 5 {place} 4 columns where the first one has 6; line 6 {place} 3 "
        "columns where the first one has 6)"
    )


def test_a_jsonl_file_that_breaks_off_loses_its_last_row_alone(tmp_path):
    rows = "".join(f'{{"sentence": "a {i}", "label": {i % 2}}}\n' for i in range(4))
    unreadable = {}
    for name in ("train", "dev"):
        (tmp_path / f"{name}.jsonl").write_text(rows[:-20])
    assert len(examples.load(TASKS["sst2"], tmp_path, unreadable)["train"]) == 3
    assert [place.partition(" of ")[0] for place in unreadable] == ["line 4", "line 4"]


def parquet(path, rows):
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_shards_of_the_hub_are_read_whole_or_refused(tmp_path):
    rows = [{"sentence": f"film {i}", "label": i % 2, "idx": i} for i in range(6)]
    for i, part in enumerate((rows[:3], rows[3:])):
        parquet(tmp_path / "data" / f"train-0000{i}-of-00002.parquet", part)
    parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", rows[:2])
    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", [{**row, "label": -1} for row in rows])
    splits = load(tmp_path, "sst2")
    assert {name: len(split) for name, split in splits.items()} == {"train": 6, "validation": 2}
    assert splits["train"][4] == Example(("film 4",), 0)
    (tmp_path / "data" / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(InputError, match="holds 1 of the 2 parts of train-00001-of-00002"):
        load(tmp_path, "sst2")
    (tmp_path / "data" / "train-00000-of-00002.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="is no readable Parquet file"):
        load(tmp_path, "sst2")


def test_files_as_they_are_published(tmp_path):
    """STS-B is called .csv and has tabs; SQuAD's names have a version; what `save_to_disk` leaves."""
    line = "main-captions\tMSRvid\t2012\t{}\t2.5\tA man's \"hat.\tA hat, red.\n"
    for name in ("train", "dev"):
        (tmp_path / f"sts-{name}.csv").write_text("".join(line.format(i) for i in range(3)))
    assert load(tmp_path, "stsb")["train"] == [Example(("A man's \"hat.", "A hat, red."), 2.5)] * 3
    context, answer = "the old city", {"text": "old", "answer_start": 4}
    questions = [{"id": "x", "question": "what", "answers": [answer]}]
    for name in ("train", "dev"):
        content = json.dumps({"data": [{"paragraphs": [{"context": context, "qas": questions}]}]})
        (tmp_path / f"{name}-v1.1.json").write_text(content)
    assert load(tmp_path, "squad")["validation"] == [Example(("what", context), (Answer("old", 4),), "x")]
    rows = datasets.Dataset.from_list([{"question": "q", "sentence": "s", "label": 1}] * 2)
    datasets.DatasetDict({"train": rows, "validation": rows}).save_to_disk(tmp_path / "saved")
    assert load(tmp_path / "saved", "qnli")["train"] == [Example(("q", "s"), 1)] * 2


def test_a_comma_file_is_quoted(tmp_path):
    content = 'sentence,label\n"good, and ""new""",1\n"a line\nand another",0\n'
    found = written(tmp_path / "data", "sst2", content, "train.csv")
    assert found == [Example(('good, and "new"',), 1), Example(("a line\nand another",), 0)]


def test_a_unicode_line_separator_ends_no_example(tmp_path):
    (first, second) = written(tmp_path / "data", "sst2", "a\u2028film\x85here\t1\nbad\t0\n")
    assert (first.texts, second.label) == (("a\u2028film\x85here",), 0)


def test_squad_is_read_alike_from_its_file_and_from_the_hub(tmp_path):
    context = "the old city was good"
    pairs = [{"text": "old", "answer_start": 4}, {"text": "old city", "answer_start": 4}]
    question = {"id": "x", "question": "what", "answers": pairs}
    published = {"data": [{"paragraphs": [{"context": context, "qas": [question]}]}]}
    lists = {"text": ["old", "old city"], "answer_start": [4, 4]}
    row = {"id": "x", "title": "t", "context": context, "question": "what", "answers": lists}
    expected = [Example(("what", context), (Answer("old", 4), Answer("old city", 4)), "x")]
    assert written(tmp_path / "one", "squad", json.dumps(published), "train.json") == expected
    assert written(tmp_path / "two", "squad", json.dumps(row), "train.jsonl") == expected


def test_real_files(shared_data):
    sentences, pairs = load(shared_data / "sst2", "sst2"), load(shared_data / "stsb", "stsb")
    assert {name: len(split) for name, split in sentences.items()} == {
        **{"train": 6920, "validation": 872, "test": 1821}
    }
    assert pairs["train"][1] == Example(
        ("A man is playing a large flute.", "A man is playing a flute."), pytest.approx(3.8)
    )


@pytest.mark.parametrize(
    ("task", "name", "content", "words"),
    [
        ("sst2", "train.tsv", "", ["is empty", "sentence and label"]),
        ("sst2", "train.tsv", "a\tb\t0\n", ["sentence and label", "has 3"]),
        ("sst2", "train.tsv", "text\tlbl\nbad\t0\n", ["line 2", "label is missing (sentence, lbl)"]),
        ("sst2", "train.tsv", "bad\t0\ngood\t2\n", ["line 2", "'2'", "1 (positive)"]),
        ("sst2", "train.tsv", "bad\t0\ngood\n", ["line 2", "1 columns"]),
        ("sst2", "train.json", '[{"sentence": "bad"}]', ["entry 1", "label is missing"]),
        ("sst2", "train.json", '[{"sentence": 3, "label": 0}]', ["entry 1", "must be text"]),
        ("sst2", "train.jsonl", "not json", ["is not the JSON of sst2"]),
        ("stsb", "train.tsv", "a\tb\t5.5\n", ["line 1", "between 0 and 5"]),
        ("stsb", "train.tsv", "a\tb\tnan\n", ["line 1", "between 0 and 5"]),
        ("squad", "train.tsv", "a\tb\tc\n", ["do not fit into a table"]),
        ("squad", "train.json", '[{"question": "q", "context": "c", "answers": []}]', ["no answer"]),
        (
            "squad",
            "train.json",
            '[{"question": "q", "context": "city", "answers": [{"text": "old", "answer_start": 0}]}]',
            ["'old' is not at 0"],
        ),
    ],
)
def test_bad_files_are_refused_by_their_line(tmp_path, task, name, content, words):
    with pytest.raises(InputError) as refused:
        written(tmp_path / "data", task, content, name)
    assert all(word in str(refused.value) for word in words)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(InputError, match="did you mean sst2"):
        find("sst-2")
    with pytest.raises(InputError, match="no such folder"):
        load(tmp_path / "nowhere", "sst2")
    (tmp_path / "train.tsv").write_text("bad\t0\n")
    with pytest.raises(InputError, match="no file dev"):
        load(tmp_path, "sst2")
    (tmp_path / "dev.tsv").write_text("sentence\tlabel\n")
    with pytest.raises(InputError, match="no examples for validation"):
        load(tmp_path, "sst2")


def test_a_data_set_that_cannot_be_fetched_is_named(monkeypatch):
    def fail(*_):
        raise ConnectionError("no network.")

    monkeypatch.setattr("datasets.load_dataset", fail)
    with pytest.raises(InputError, match=r"nyu-mll/glue cannot be fetched \(ConnectionError: no network\).*data\.path"):
        examples.load(TASKS["rte"], None)


def test_splits_of_the_hub_without_labels_are_left_out(monkeypatch):
    row = {"sentence": "good", "idx": 0}
    whole = {
        "train": [{**row, "label": 1}],
        "validation": [{**row, "label": 0}],
        "test": [{**row, "label": -1}],
    }
    monkeypatch.setattr("datasets.load_dataset", lambda name, config: whole)
    splits = examples.load(TASKS["sst2"], None)
    assert splits == {"train": [Example(("good",), 1)], "validation": [Example(("good",), 0)]}


# Tokens


@pytest.mark.parametrize(
    ("name", "content"),
    [("test.tsv", "index\tsentence\n0\tgood\n"), ("test.jsonl", '{"sentence": "good", "label": -1}\n')],
)
def test_a_test_file_without_labels_is_left_out(tmp_path, name, content):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.tsv").write_text("good\t1\n")
    (tmp_path / name).write_text(content)
    assert set(load(tmp_path, "sst2")) == {"train", "validation"}
    (tmp_path / "dev.tsv").write_text("index\tsentence\n0\tgood\n")
    with pytest.raises(InputError, match=r"line 2 of .*dev\.tsv must have .*: label is missing \(index, sentence\)"):
        load(tmp_path, "sst2")


def test_rows_are_padded_as_the_tokenizer_pads_them():
    sentence_pairs = [Example((a, b), 0) for a, b in zip(tuning.sentences(9), tuning.sentences(9, 5), strict=True)]
    tokenizer = tuning.tokenizer()
    rows = encode(TASKS["rte"], sentence_pairs, tokenizer, 12, 0)
    chosen = np.array([4, 0, 7])
    pairs = ([sentence_pairs[i].texts[side] for i in chosen] for side in (0, 1))
    expected = tokenizer(*pairs, truncation=True, max_length=12, padding=True, return_tensors="pt")
    made = rows.inputs(chosen, tokenizer.pad_token_id)
    assert set(made) == set(expected)
    assert all(torch.equal(made[name], expected[name]) for name in made)


@given(st.integers(0, 100), st.integers(12, 30), st.integers(0, 4))
def test_answers_are_located_in_the_rows_that_hold_them(seed, length, stride):
    words = np.random.default_rng(seed).choice(tuning.WORDS, size=40)
    context = " ".join(words)
    start = len(" ".join(words[:17])) + 1
    answer = " ".join(words[17:19])
    example = Example(("what was it",), 0)._replace(texts=("what was it", context), label=(Answer(answer, start),))
    rows = encode(TASKS["squad"], [example], tuning.tokenizer(), length, stride)
    hits = 0
    for row, (first, last) in enumerate(rows.labels):
        spans = rows.spans[rows.starts[row] : rows.starts[row + 1]]
        if (first, last) == (0, 0):
            held = spans[spans[:, 0] >= 0]
            assert held[0, 0] > start or held[-1, 1] < start + len(answer)
            continue
        hits += 1
        assert context[spans[first, 0] : spans[last, 1]] == answer
    assert hits or stride < 2
    assert set(rows.owners) == {0}


def test_a_row_too_short_for_the_question_is_refused():
    example = Example(("what was the old city", "the city"), (Answer("the", 0),))
    with pytest.raises(InputError, match="max_length 8 has no room"):
        encode(TASKS["squad"], [example], tuning.tokenizer(), 8, 4)


# Batches


def opened(folder, trainer=None, task="sst2", tokenizer=None, **settings):
    data = TaskData(task, str(folder), **{"batch_size": 6, "probe_tokens": 40, **settings})
    data.setup()
    data.encode(tokenizer or tuning.tokenizer(), 64)
    defaults = {
        "global_step": 0,
        "max_steps": 12,
        "world_size": 1,
        "global_rank": 0,
        "accumulate_grad_batches": 1,
    }
    data.trainer = SimpleNamespace(**{**defaults, **(trainer or {})})
    return data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tuning.sst2(tmp_path_factory.mktemp("sst2"))


@given(st.integers(1, 500), st.integers(1, 9), st.integers(0, 5))
def test_an_epoch_has_every_row_once_but_the_remainder(rows, batch, seed):
    lengths = np.random.default_rng(seed).integers(3, 60, size=rows)
    batches = grouped(lengths, batch, np.random.default_rng(seed))
    assert batches.shape == (rows // batch, batch)
    assert len(set(batches.flat)) == batches.size
    assert np.array_equal(batches, grouped(lengths, batch, np.random.default_rng(seed)))


def test_rows_of_a_batch_are_about_equally_long():
    lengths = np.random.default_rng(0).integers(5, 60, size=4000)
    by_length = lengths[grouped(lengths, 32, np.random.default_rng(1))]
    assert 1 - by_length.sum() / (by_length.max(1) * 32).sum() < 0.03
    by_chance = lengths[:3968].reshape(-1, 32)
    assert 1 - by_chance.sum() / (by_chance.max(1) * 32).sum() > 0.4


def test_epochs_differ_and_seeds_too(folder):
    data, other = opened(folder), opened(folder, seed=1)
    assert data.steps_per_epoch == 5
    owners = [batch.owners.tolist() for batch in data.train_dataloader()]
    assert len(owners) == 12
    assert sorted(chain(*owners[:5])) == sorted(chain(*owners[5:10])) == list(range(30))
    assert owners[:5] != owners[5:10]
    assert owners != [batch.owners.tolist() for batch in other.train_dataloader()]


def test_ranks_and_accumulation_share_the_same_rows(folder):
    expected = [batch.owners.tolist() for batch in opened(folder).train_dataloader()]
    shares = [
        list(opened(folder, {"world_size": 2, "global_rank": r, "accumulate_grad_batches": 3}).train_dataloader())
        for r in (0, 1)
    ]
    for step, whole in enumerate(expected):
        parts = [shares[rank][3 * step + part].owners.tolist() for rank in (0, 1) for part in range(3)]
        assert list(chain(*parts)) == whole


def test_resuming_yields_the_rows_that_are_left(folder):
    whole = list(opened(folder).train_dataloader())
    later = list(opened(folder, {"global_step": 7}).train_dataloader())
    assert [b.owners.tolist() for b in later] == [b.owners.tolist() for b in whole[7:]]
    assert all(torch.equal(b.inputs["input_ids"], c.inputs["input_ids"]) for b, c in zip(later, whole[7:], strict=True))


def test_a_batch_that_cannot_be_shared_is_refused(folder):
    with pytest.raises(InputError, match="batch_size 6"):
        opened(folder, {"world_size": 4}).train_dataloader()


def test_validation_sees_every_row_once_on_whichever_rank(folder, tmp_path):
    seen = []
    for rank in (0, 1):
        data = opened(folder, {"world_size": 2, "global_rank": rank})
        seen += [owner for batch in data.val_dataloader() for owner in batch.owners.tolist()]
    assert sorted(seen) == list(range(10))
    squad = tuning.squad(tmp_path / "squad")
    for rank in (0, 1):
        data = opened(squad, {"world_size": 2, "global_rank": rank}, "squad", max_length=16, stride=4)
        owners = [owner for batch in data.val_dataloader() for owner in batch.owners.tolist()]
        assert len(owners) > len(set(owners))
        assert {owner % 2 for owner in owners} == {rank}


def test_evaluation_tokens_are_whole_held_out_rows_and_the_same_for_every_seed(folder):
    data = opened(folder)
    probe, other = data.evaluation_batches(), opened(folder, seed=3, batch_size=2).evaluation_batches()
    tokens = [ids[mask == 1].tolist() for b in probe for ids, mask in zip(*list(b.values())[:2], strict=True)]
    again = [ids[mask == 1].tolist() for b in other for ids, mask in zip(*list(b.values())[:2], strict=True)]
    assert tokens == again
    assert 40 <= sum(map(len, tokens)) < 40 + 13
    held_out = [data.tokenizer(e.texts[0])["input_ids"] for e in data.examples["validation"]]
    assert all(row in held_out for row in tokens)


def test_a_tokenizer_without_padding_is_refused_until_a_token_is_named(folder):
    with pytest.raises(InputError, match=r"--data\.pad_token '</s>'"):
        opened(folder, tokenizer=tuning.tokenizer(pad=None))
    with pytest.raises(InputError, match="pad_token nonsense"):
        opened(folder, tokenizer=tuning.tokenizer(pad=None), pad_token="nonsense")
    data = opened(folder, tokenizer=tuning.tokenizer(pad=None), pad_token="</s>")
    assert data.tokenizer.pad_token_id == 2


@pytest.mark.parametrize("settings", [{"batch_size": 0}, {"max_length": 0}, {"probe_tokens": 0}])
def test_sizes_below_one_are_refused(settings):
    with pytest.raises(InputError, match=next(iter(settings))):
        TaskData("sst2", **settings)


def test_a_batch_larger_than_the_data_is_refused(folder):
    with pytest.raises(InputError, match="batch_size 31"):
        opened(folder, batch_size=31)


def test_another_model_gets_tokens_and_batches_of_its_own(folder):
    data = opened(folder)
    before = next(iter(data.train_dataloader())).inputs["input_ids"]
    data.encode(tuning.tokenizer(), 4)
    again = next(iter(data.train_dataloader())).inputs["input_ids"]
    assert again.shape[1] == 4 < before.shape[1]
    short = opened(folder, max_length=4)
    assert torch.equal(again, next(iter(short.train_dataloader())).inputs["input_ids"])
