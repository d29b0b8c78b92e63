"""Loading: splits, caching, plain text, and what is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamics.data import corpus
from dynamics.data.corpus import Corpus, load
from dynamics.errors import InputError
from dynamics.files import cache_folder

DUMP = "<mediawiki>{}<page><title>cut off</title>".format(
    "".join(
        f"<page><title>{i}</title><revision><text>'''Nr''' {i}: {'é' if i > 90 else 'e'}\n\n{{{{x}}}}two</text>"
        "</revision></page>"
        for i in range(100)
    )
)


@pytest.fixture
def dump(cache: Path, tmp_path: Path) -> Path:
    path = tmp_path / "wiki.xml"
    path.write_text(DUMP, encoding="utf-8")
    return path


def quietly(path: Path | str, vocabulary: str = "characters", size: int = 205) -> Corpus:
    return load(str(path), vocabulary, size, processes=1, progress=False)


def test_a_dump(dump: Path):
    text = "\n\n".join(f"Nr {i}: {'é' if i > 90 else 'e'}\ntwo" for i in range(100))
    loaded = quietly(dump)
    assert loaded.text() == text
    assert loaded.vocabulary.decode(loaded.ids) == text.replace("é", "<unk>")
    assert loaded.ids.dtype == np.uint8
    assert isinstance(loaded.ids, np.memmap)
    assert loaded.sha256 == hashlib.sha256(dump.read_bytes()).hexdigest()
    assert (loaded.name, loaded.source) == ("wiki.xml", f"the Wikipedia dump {dump}")
    sizes = {"characters": len(text), "bytes": len(text.encode()), "input bytes": len(DUMP.encode())}
    assert loaded.counts == {**sizes, "pages": 101, "articles": 100, "damaged": 1, "breaks off": 1}
    assert loaded.notes == (f"{dump} breaks off before its end: what follows its last page is missing",)
    dump.write_text(DUMP + "</page></mediawiki>")
    assert quietly(dump).notes == ()
    assert loaded.removed == {"templates": 100}


def test_splits_cut_by_position_at_the_same_character(dump: Path):
    characters, octets = quietly(dump), quietly(dump, "bytes")
    total = len(characters.text())
    assert characters.tokens_per_character == 1
    assert octets.tokens_per_character == len(octets.text().encode()) / total > 1
    ends = [(split.start, split.stop) for split in characters.splits.values()]
    assert ends == [(0, total * 90 // 100), (total * 90 // 100, total * 95 // 100), (total * 95 // 100, total)]
    for name, split in octets.splits.items():
        text = characters.text()[characters.splits[name]]
        assert octets.vocabulary.decode(octets.ids[split]) == text == characters.text(name) == octets.text(name)


def test_the_vocabulary_is_that_of_the_training_split(dump: Path):
    loaded = quietly(dump, size=5)
    train = loaded.text("train")
    ranked = sorted(set(train), key=lambda c: (-train.count(c), c))[:4]
    assert loaded.vocabulary.tokens == (*ranked, "<unk>")
    assert quietly(dump).vocabulary.size == len(set(train)) + 1
    assert quietly(dump, "bytes").vocabulary.size == 256


def test_the_second_load_reads_the_cache_alone(dump: Path, monkeypatch: pytest.MonkeyPatch):
    first = quietly(dump)
    monkeypatch.setattr(corpus, "clean_dump", None)
    monkeypatch.setattr(corpus.CorpusFile, "blocks", None)
    second = quietly(dump)
    assert np.array_equal(first.ids, second.ids)
    for field in ("splits", "vocabulary", "name", "source", "sha256", "recipe", "counts", "removed"):
        assert getattr(first, field) == getattr(second, field)


def test_the_same_content_elsewhere_is_not_cleaned_again(dump: Path, monkeypatch: pytest.MonkeyPatch):
    first = quietly(dump)
    copy = shutil.copy(dump, dump.with_name("copy.xml"))
    monkeypatch.setattr(corpus, "clean_dump", None)
    assert quietly(copy).path == first.path


def test_another_recipe_cleans_again(dump: Path, monkeypatch: pytest.MonkeyPatch):
    first = quietly(dump)
    monkeypatch.setattr(corpus, "WIKI_RECIPE", "another")
    assert quietly(dump).path != first.path


@pytest.mark.parametrize("name", ["text.txt", "facts.json", "characters-205.npy"])
def test_a_damaged_cache_is_written_again(name: str, dump: Path):
    first = quietly(dump)
    text, ids = first.text(), np.array(first.ids)
    file = first.path.with_name(name)
    file.write_bytes(file.read_bytes()[:50])
    for memory in (cache_folder() / "inputs").iterdir():
        memory.write_text('{"another": "layout"}')
    second = quietly(dump)
    assert second.text() == text
    assert np.array_equal(second.ids, ids)


def test_an_interrupted_cleaning_leaves_no_corpus(dump: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def breaks(*_: object):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(corpus, "clean_dump", breaks)
        with pytest.raises(KeyboardInterrupt):
            quietly(dump)
    assert not [path for path in cache.rglob("*") if path.suffix in (".txt", ".tmp", ".npy")]
    assert quietly(dump).counts["articles"] == 100


def test_plain_text_keeps_its_layout(cache: Path, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff'''Not''' wiki: {{a}}\r\n\r\n  b\rc\u00a0\td\u200be\x00é  \n".encode())
    loaded = quietly(path)
    assert loaded.text() == "'''Not''' wiki: {{a}}\n\n  b\nc \tdeé  \n"
    assert (loaded.source, loaded.removed) == (f"the text {path}", {})
    assert loaded.recipe.startswith("plain text")


@settings(max_examples=60, deadline=None)
@given(st.text(st.sampled_from("aé𝄞\r\n\ufeff"), min_size=1), st.integers(1, 5))
def test_plain_text_does_not_depend_on_its_blocks(text: str, size: int):
    data = ("x" + text).encode()
    source = type("Blocks", (), {"blocks": lambda _: (data[i : i + size] for i in range(0, len(data), size))})()
    decoded = "".join(corpus._plain_text(source, lambda _: None))
    assert decoded == ("x" + text).replace("\r\n", "\n").replace("\r", "\n").replace("\ufeff", "")


@pytest.mark.parametrize(
    ("content", "offset"),
    [(b"ab\xff", 2), (b"x" * (1 << 20) + b"\xc3(", 1 << 20), (b"abc\xe2\x82", 3), (b"\xff\xfea\0", 0)],
)
def test_what_is_not_utf8_is_refused_with_the_byte(content: bytes, offset: int, cache: Path, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.txt is not UTF-8 at byte {offset}:"):
        quietly(path)
    assert not list(cache.rglob("text.txt"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b""),
        ("a.txt", b" \n\t\n"),
        ("a.xml", b""),
        ("a.xml", b"<mediawiki></mediawiki>"),
        ("a.xml", b"junk"),
    ],
)
def test_an_empty_corpus_is_refused(name: str, content: bytes, cache: Path, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{name} contains no (article|text): choose another corpus"):
        quietly(path)
    assert not list(cache.rglob("text.txt"))


def test_a_text_of_one_character(cache: Path, tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    loaded = quietly(path)
    assert (loaded.vocabulary.tokens, loaded.ids.tolist(), loaded.text("test")) == (("<unk>",), [0], "a")


def test_bad_settings_are_refused(dump: Path):
    with pytest.raises(InputError, match="vocabulary must be characters or bytes \\(got words\\)"):
        quietly(dump, "words")
    with pytest.raises(InputError, match="at least 2"):
        quietly(dump, size=1)


def test_a_cache_that_cannot_be_written_is_refused(dump: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DYNAMICS_CACHE", str(dump / "inside a file"))
    with pytest.raises(InputError, match=r"cache folder .*inside a file cannot be used .* set DYNAMICS_CACHE"):
        quietly(dump)


def test_a_full_disk_is_refused(dump: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(corpus, "write_atomically", full)
    with pytest.raises(InputError, match=r"cache folder .*No space left.*make room, or set DYNAMICS_CACHE"):
        quietly(dump)


def test_the_default_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("DYNAMICS_CACHE", raising=False)
    assert cache_folder() == Path.home() / ".cache" / "dynamics"


def test_scripts_need_no_guard_and_may_run_at_once(dump: Path, tmp_path: Path):
    """Two unguarded scripts, several workers each, clean the same dump at the same time."""
    big = tmp_path / "big.xml"
    big.write_text(DUMP.replace("two", "two " * 8000), encoding="utf-8")
    script = tmp_path / "script.py"
    script.write_text(
        "import json; from dynamics.data.corpus import load\n"
        f"c = load({str(big)!r}, processes=2, progress=False)\n"
        "print(json.dumps([c.counts['articles'], len(c.ids)]))\n"
    )
    runs = [subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (json.loads(run.communicate(timeout=600)[0]) for run in runs)
    assert first == second
    assert first[0] == 100


def test_enwik8_prefix(enwik8_prefix: Corpus):
    assert enwik8_prefix.sha256 == "d8b3b95fb4993726ea7dcc93ae3c9e08a1a04cc540d05d7656fd267cc8ab5d6a"
    assert enwik8_prefix.vocabulary.size == 205
    articles = enwik8_prefix.text().split("\n\n")
    assert len(articles) == enwik8_prefix.counts["articles"] == 248
    assert all(articles)
