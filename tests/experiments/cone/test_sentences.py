"""What is read, and what is refused."""

import pytest

from dynamics.errors import InputError
from dynamics.experiments.cone import sentences

STSB = 'main-news\tMSRpar\t2012\t0001\t{}\tOne sentence.\tAnother "sentence.\tsource\n'


def write(folder, text):
    path = folder / "file.txt"
    path.write_text(text)
    return str(path)


def test_lines_are_stripped_and_kept_in_order(tmp_path):
    name = write(tmp_path, " a b \r\nc\u2028d\ne\n")
    assert sentences.read(name, "--sentences") == ["a b", "c\u2028d", "e"]
    assert sentences.read(name, "--sentences", 3) == sentences.read(name, "--sentences")


@pytest.mark.parametrize(("text", "said"), [("a\nb\n", "holds 2"), ("a\n \nb\n\n", "holds 2"), ("", "is empty")])
def test_files_that_are_no_sentences(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        sentences.read(write(tmp_path, text), "--sentences")


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("ü\n".encode("latin-1") * 4)
    with pytest.raises(InputError, match=r"line 1 of .*latin\.txt is not UTF-8"):
        sentences.read(str(path), "--sentences")


def test_lines_that_are_no_text_are_noted_and_blank_ones_skipped(tmp_path):
    path = tmp_path / "mixed.txt"
    path.write_bytes(b"\xef\xbb\xbfa\n\nb \xff\nc\n\td \n")
    unreadable = {}
    assert sentences.read(str(path), "--sentences", None, unreadable) == ["a", "c", "d"]
    assert unreadable == {
        f"line 3 of {path}": "is not UTF-8 (invalid start byte): convert the file (iconv can)",
    }


def test_pairs_that_are_broken_are_noted(tmp_path):
    name, unreadable = write(tmp_path, "1\ta\tb\nhigh\tc\td\n2\te\tf\n3\tg\n2.5\te\th\n3\ta\t \n4\ti\tk\n"), {}
    found = sentences.pairs(name, unreadable)
    assert found.scores == [1, 2, 2.5, 4]
    assert unreadable == {
        f"line 2 of {name}": "the score is not a number (high)",
        f"line 4 of {name}": "has 2 columns, not 3 or more",
        f"line 6 of {name}": "lacks a sentence",
    }


@pytest.mark.parametrize("argument", ["news", "=a.txt", "news=", "pairs=a.txt", "sentences=a.txt"])
def test_corpora_have_a_name_and_a_file(argument):
    with pytest.raises(InputError, match="--corpus"):
        sentences.files([argument])


@pytest.mark.parametrize(
    "text",
    [
        "".join(STSB.format(score) for score in (1, 2, 2.5)),
        "".join(f'{score}\tOne sentence.\tAnother "sentence.\n' for score in (1, 2, 2.5)),
        "".join(f'One sentence.\tAnother "sentence.\t{score}\n' for score in (1, 2, 2.5)),
        "id\tsentence1\tsentence2\tscore\n"
        + "".join(f'7\tOne sentence.\tAnother "sentence.\t{score}\n' for score in (1, 2, 2.5)),
    ],
    ids=["stsb", "score first", "score last", "named"],
)
def test_pairs_in_every_layout(tmp_path, text):
    found = sentences.pairs(write(tmp_path, text))
    assert found.sentences == ["One sentence.", 'Another "sentence.']
    assert (found.first, found.second, found.scores) == ([0] * 3, [1] * 3, [1.0, 2.0, 2.5])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (STSB.format(1) + STSB.format("high") + STSB.format(2), "2 pairs"),
        (STSB.format(1) + STSB.format("nan") * 2, r"line 2 of .*: the score is not a number \(nan\)"),
        (STSB.format("high") * 3, r"line 1 of .*: the score is not a number \(high\)"),
        (STSB.format(1) + STSB.format(2), "2 pairs"),
        (STSB.format(1) * 3, "one score alone"),
        (STSB.format(1) + "1\ta\tb\n", "line 2 of .* has 3 columns"),
        ("1\ta\t \n" * 3, "line 1 of .* lacks"),
        ("a b\n" * 3, "1 columns"),
    ],
)
def test_pairs_that_are_none(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        sentences.pairs(write(tmp_path, text))
