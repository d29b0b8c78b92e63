"""What `dynamics data` prints."""

import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from dynamics.cli.main import main
from dynamics.data import corpus, summary
from dynamics.data.corpus import Corpus


def test_the_page_of_enwik8(enwik8_prefix: Corpus):
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(summary.describe(enwik8_prefix))
    page = console.export_text()
    for expected in (
        "articles",
        "4,154,064",
        "0.710",
        "language links",
        "interwiki",
        "gzip -9",
        "ppmd",
        "205 characters",
    ):
        assert expected in page
    assert enwik8_prefix.text("validation")[:40] in page


def test_coverage(enwik8_prefix: Corpus):
    shares = summary.coverage(enwik8_prefix)
    assert set(shares) == {"train", "validation", "test"}
    unknown = enwik8_prefix.vocabulary.decode(enwik8_prefix.ids).count("<unk>")
    total = sum(round((1 - shares[name]) * (s.stop - s.start)) for name, s in enwik8_prefix.splits.items())
    assert total == unknown > 0
    assert all(0.999 < share < 1 for share in shares.values())


def test_bits_per_character(enwik8_prefix: Corpus):
    bits = summary.bits_per_character(enwik8_prefix.text("test"))
    assert 2 < bits["ppmd, order 8"] < bits["bzip2 -9"] < bits["xz -9"] < bits["gzip -9"] < 4
    ascii_only, two_bytes = (summary.bits_per_character(letter * 5000)["gzip -9"] for letter in "aé")
    assert two_bytes == pytest.approx(ascii_only, rel=0.5)
    assert math.isnan(summary.bits_per_character("")["xz -9"])


def test_the_verb_takes_any_text(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "a.txt"
    path.write_text("[bold]x[/bold] [/] :smile: " * 200)
    main(["data", str(path), "--vocabulary", "bytes"])
    printed = capsys.readouterr().out
    assert "[bold]x[/bold] [/] :smile:" in printed
    assert "256 bytes" in printed
    assert "removed" not in printed
    assert corpus.load(str(path), progress=False).counts["bytes"] == 27 * 200
