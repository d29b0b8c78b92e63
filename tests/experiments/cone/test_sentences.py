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


@pytest.mark.parametrize(
    ("text", "said"),
    [("a\nb\n", "holds 2"), ("a\n \nb\nc\n", "line 2 is empty"), ("", "is empty"), ("a\nb\nc\n\n", "line 4")],
)
def test_files_that_are_no_sentences(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        sentences.read(write(tmp_path, text), "--sentences")


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes("ü\n".encode("latin-1") * 4)
    with pytest.raises(InputError, match="UTF-8"):
        sentences.read(str(path), "--sentences")


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
        (STSB.format(1) + STSB.format("high") + STSB.format(2), "line 2 is not a number"),
        (STSB.format(1) + STSB.format("nan") + STSB.format(2), "line 2 is not a number"),
        (STSB.format("high") * 3, "line 1 is not a number"),
        (STSB.format(1) + STSB.format(2), "2 pairs"),
        (STSB.format(1) * 3, "one score alone"),
        (STSB.format(1) + "1\ta\tb\n", "line 2 has 3 columns"),
        ("1\ta\t \n" * 3, "line 1 lacks"),
        ("a b\n" * 3, "1 columns"),
    ],
)
def test_pairs_that_are_none(tmp_path, text, said):
    with pytest.raises(InputError, match=said):
        sentences.pairs(write(tmp_path, text))
