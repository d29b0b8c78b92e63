"""Windows: a pure function of seed and step, whatever the ranks, shares and resumptions."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamics.data.windows import CharData, spread_offsets, training_offsets
from dynamics.errors import InputError


@pytest.fixture(autouse=True)
def cache(workplace):
    """Every test has its own cache."""


def opened(text_file, trainer=None, **settings):
    data = CharData(str(text_file), **{"context": 32, "batch_size": 12, "probe_tokens": 256, **settings})
    data.prepare_data()
    data.setup()
    defaults = {
        "global_step": 0,
        "max_steps": 3,
        "world_size": 1,
        "global_rank": 0,
        "accumulate_grad_batches": 1,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
    }
    data.trainer = SimpleNamespace(**{**defaults, **(trainer or {})})
    return data


@given(st.integers(0, 100), st.integers(0, 10_000), st.integers(1, 64), st.integers(1, 10_000))
def test_training_offsets_are_a_pure_function_in_range(seed, step, count, high):
    offsets = training_offsets(seed, step, count, high)
    assert np.array_equal(offsets, training_offsets(seed, step, count, high))
    assert ((offsets >= 0) & (offsets < high)).all()


@given(st.integers(0, 100), st.integers(1, 5000), st.integers(1, 50), st.none() | st.integers(1, 200))
def test_spread_offsets_do_not_overlap_and_stay_inside(start, length, span, count):
    if length < span:
        return
    offsets = spread_offsets(start, start + length, span, count)
    assert (np.diff(offsets) >= span).all()
    assert offsets[0] >= start
    assert offsets[-1] + span <= start + length
    assert len(offsets) == (length // span if count is None else min(count, length // span))


def test_windows_are_the_text(text_file):
    data = opened(text_file)
    first = next(iter(data.train_dataloader()))
    assert first.windows.shape == (12, 33)
    assert first.windows.dtype == torch.int64
    split = data.text.splits["train"]
    text = data.text.vocabulary.decode(np.asarray(data.text.ids[split]))
    assert all(data.text.vocabulary.decode(row) in text for row in first.windows.numpy())


def test_ranks_and_accumulation_share_the_same_windows(text_file):
    whole = opened(text_file)
    expected = [batch.windows for batch in whole.train_dataloader()]
    shares = {step: [] for step in range(3)}
    for rank in range(2):
        part = opened(text_file, {"world_size": 2, "global_rank": rank, "accumulate_grad_batches": 3})
        for batch in part.train_dataloader():
            shares[batch.step].append((batch.first, batch.windows))
    for step, parts in shares.items():
        ordered = torch.cat([window for _, window in sorted(parts, key=lambda part: part[0])])
        assert torch.equal(ordered, expected[step])


def test_resuming_yields_the_windows_that_are_left(text_file):
    whole, later = opened(text_file), opened(text_file, {"global_step": 2})
    expected = list(whole.train_dataloader())[2]
    (batch,) = later.train_dataloader()
    assert batch.step == expected.step == 2
    assert torch.equal(batch.windows, expected.windows)


def test_windows_of_steps_made_together_are_those_of_each_step(text_file, monkeypatch):
    parts = {"max_steps": 5, "accumulate_grad_batches": 2}
    alone = list(opened(text_file, parts).train_dataloader())
    monkeypatch.setattr("dynamics.data.windows.steps_together", lambda tokens, device: 3)
    together = list(opened(text_file, parts).train_dataloader())
    assert [batch[1:] for batch in together] == [batch[1:] for batch in alone]
    assert all(torch.equal(one.windows, other.windows) for one, other in zip(alone, together, strict=True))


def test_evaluation_tokens_are_held_out_clean_and_enough(text_file):
    data = opened(text_file)
    ids = torch.cat([batch["input_ids"] for batch in data.evaluation_batches()])
    assert ids.shape == (8, 32)
    split = data.text.splits["validation"]
    text = data.text.vocabulary.decode(np.asarray(data.text.ids[split]))
    assert all(data.text.vocabulary.decode(row) in text for row in ids.numpy())
    assert (ids < data.text.vocabulary.size).all()


def test_the_test_split_is_seen_once(text_file):
    data = opened(text_file)
    split = data.text.splits["test"]
    seen = torch.cat([batch.windows for batch in data.test_dataloader()])
    expected = np.asarray(data.text.ids[split])[: seen.numel()]
    assert np.array_equal(seen.flatten().numpy(), expected)
    assert split.stop - split.start - seen.numel() < 33


def test_a_text_shorter_than_a_window_is_refused(text_file):
    with pytest.raises(InputError, match=r"validation split.*less than one window"):
        opened(text_file, context=5000)


@pytest.mark.parametrize("ranks", [2, 3, 5, 8])
def test_every_rank_validates_and_together_they_see_every_window_once(text_file, ranks):
    whole = opened(text_file)
    expected = {batch.step: batch.windows for batch in whole.val_dataloader()}
    rows = {step: {} for step in expected}
    for rank in range(ranks):
        data = opened(text_file, {"world_size": ranks, "global_rank": rank})
        batches = list(data.val_dataloader())
        assert batches
        for batch in batches:
            assert batch.total == len(expected[batch.step])
            for number, row in enumerate(batch.windows, start=batch.first):
                assert number not in rows[batch.step]
                rows[batch.step][number] = row
    for step, windows_of_step in expected.items():
        together = torch.stack([rows[step][number] for number in range(len(windows_of_step))])
        assert torch.equal(together, windows_of_step)


def test_more_ranks_than_validation_windows_are_refused(text_file):
    data = opened(text_file, {"world_size": 99})
    with pytest.raises(InputError, match=r"set data\.validation_windows 99"):
        data.val_dataloader()


@pytest.mark.parametrize(("ranks", "sizes"), [(5, "10 or 15"), (16, "16")])
def test_a_batch_that_cannot_be_shared_is_refused(text_file, ranks, sizes):
    data = opened(text_file, {"world_size": ranks})
    with pytest.raises(InputError, match=f"batch_size 12.*: {sizes} would do"):
        data.train_dataloader()


@pytest.mark.parametrize("key", ["context", "batch_size", "validation_windows", "probe_tokens"])
def test_sizes_below_one_are_refused(key):
    with pytest.raises(InputError, match=key):
        CharData("sample", **{key: 0})
