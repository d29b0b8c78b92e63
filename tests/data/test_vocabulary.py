"""The alphabet: its order, its ids, and that transformers reads the same ids from tokenizer.json."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from dynamics.data.corpus import Corpus
from dynamics.data.vocabulary import Vocabulary
from dynamics.errors import InputError

TEXT = "the cat\tsat on\n\nthe  mat, it's “näive” 𝔄 <unk> {x}\u00a0é"


def vocabulary_of(text: str, size: int = 205) -> Vocabulary:
    return Vocabulary.characters(Counter(map(ord, text)), size)


def test_most_frequent_first_then_by_code_point():
    vocabulary = vocabulary_of("cccbbaad", size=4)
    assert vocabulary.tokens == ("c", "a", "b", "<unk>")
    assert (vocabulary.size, vocabulary.unk_id, vocabulary.mask_id, vocabulary.pad_id) == (4, 3, 4, 5)
    assert vocabulary.encode("dabcé").tolist() == [3, 1, 2, 0, 3]
    assert vocabulary.decode(np.array([0, 1, 2, 3, 4, 5])) == "cab<unk><mask><pad>"


def test_fewer_tokens_where_fewer_characters_occur():
    assert vocabulary_of("aab").tokens == ("a", "b", "<unk>")
    assert vocabulary_of("").tokens == ("<unk>",)
    assert vocabulary_of("").encode("ab").tolist() == [0, 0]


@pytest.mark.parametrize(("size", "dtype"), [(2, np.uint8), (256, np.uint8), (257, np.uint16)])
def test_smallest_type(size: int, dtype: type):
    vocabulary = Vocabulary.characters(dict.fromkeys(range(0x4E00, 0x5E00), 1), size)
    assert vocabulary.size == size
    assert vocabulary.encode("一二z").dtype == dtype


def test_bytes():
    vocabulary = Vocabulary.bytes()
    assert vocabulary.encode("aé").tolist() == [97, 195, 169]
    assert (vocabulary.size, vocabulary.mask_id, vocabulary.pad_id, vocabulary.unk_id) == (256, 256, 257, None)
    assert vocabulary.decode(np.array([195, 169, 256, 97, 195])) == "é<mask>a\ufffd"


@given(st.text(), st.integers(2, 40))
def test_encoding_is_a_lookup(text: str, size: int):
    vocabulary = vocabulary_of(text, size)
    position = {token: i for i, token in enumerate(vocabulary.tokens[:-1])}
    assert vocabulary.encode(text).tolist() == [position.get(c, vocabulary.unk_id) for c in text]
    if len(set(text)) < size:
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert Vocabulary.bytes().decode(Vocabulary.bytes().encode(text)) == text


@pytest.mark.parametrize("vocabulary", [vocabulary_of(TEXT[:20]), vocabulary_of(TEXT), Vocabulary.bytes()])
def test_transformers_reads_the_same_ids(vocabulary: Vocabulary, tmp_path: Path):
    path = vocabulary.save(tmp_path)
    specials = {"mask_token": "<mask>", "pad_token": "<pad>", "unk_token": "<unk>"}
    if vocabulary.unk_id is None:
        specials.pop("unk_token")
    for tokenizer in (
        PreTrainedTokenizerFast(tokenizer_file=str(path), **specials),
        AutoTokenizer.from_pretrained(tmp_path),
    ):
        for text in (TEXT, "", " ", "\r\n\x00", "ａ" * 300):
            ids = tokenizer(text, split_special_tokens=True)["input_ids"]
            assert ids == vocabulary.encode(text).tolist()
        assert len(tokenizer) == vocabulary.size + 2
        assert (tokenizer.mask_token_id, tokenizer.pad_token_id) == (vocabulary.mask_id, vocabulary.pad_id)
        assert tokenizer.unk_token_id == vocabulary.unk_id
        assert tokenizer("t<mask>")["input_ids"] == [vocabulary.encode("t")[0], vocabulary.mask_id]
        plain = TEXT.replace("<unk>", "")[:20]
        assert tokenizer.decode(tokenizer(plain)["input_ids"]) == plain


def test_transformers_reads_the_same_ids_of_enwik8(enwik8_prefix: Corpus, tmp_path: Path):
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(enwik8_prefix.vocabulary.save(tmp_path)))
    ids = tokenizer(enwik8_prefix.text("test"))["input_ids"]
    assert np.array_equal(ids, enwik8_prefix.ids[enwik8_prefix.splits["test"]])


@pytest.mark.parametrize("vocabulary", [vocabulary_of(TEXT), Vocabulary.bytes()])
def test_load_returns_what_was_saved(vocabulary: Vocabulary, tmp_path: Path):
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path) == vocabulary


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "[]",
        "{}",
        '{"model": {"vocab": {"a": 0}, "unk_token": null}}',
        '{"model": {"vocab": [["a", 0]], "unk_token": "<unk>"}}',
        '{"model": {"vocab": {"a": 0, "<unk>": 1, "b": 2}, "unk_token": "<unk>"}}',
    ],
)
def test_another_file_is_refused(content: str | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError, match=r"tokenizer\.json .*a vocabulary of characters or bytes"):
        Vocabulary.load(tmp_path)
