"""The browser is played by a script: what it is asked for, and what happens when it fails."""

import pytest

from dynamics import record
from dynamics.errors import Failure, InputError
from dynamics.record import Row
from dynamics.report import browser, page

DRAWN = '<html lang="en" data-height="4321"><body></body></html>'
SCRIPT = """#!/bin/sh
for word in "$@"; do
  echo "$word" >> "$0.log"
  case "$word" in
    --print-to-pdf=*) echo made > "${word#--print-to-pdf=}" ;;
    --screenshot=*) echo made > "${word#--screenshot=}" ;;
  esac
done
"""


@pytest.fixture
def chromium(tmp_path, monkeypatch):
    """Play the browser by a script; return how to write it, and what it was called with."""
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")
    monkeypatch.setattr(browser, "BROWSERS", ("played-browser",))

    def write(more="", begin=SCRIPT):
        script = place / "played-browser"
        script.write_text(begin + more)
        script.chmod(0o755)
        return place / "played-browser.log"

    return write


def test_a_pdf_and_a_picture_as_tall_as_the_page(chromium, tmp_path):
    log = chromium(f"echo '{DRAWN}'\n")
    record.Record(tmp_path / "d").write(0, [Row("d", "", "", 0, "residual", 1, -1, "anisotropy", 0.5)])
    assert page.write([tmp_path / "d"], tmp_path / "r.pdf", "pdf").read_text() == "made\n"
    assert browser.convert("<html></html>", "png") == b"made\n"
    assert "--window-size=1400,4321" in log.read_text()


def test_without_a_browser_it_is_said_what_to_install(twins, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InputError, match=r"--format pdf needs Chromium or Chrome.*install"):
        page.write(twins[:1], tmp_path / "r.pdf", "pdf")
    assert list(tmp_path.iterdir()) == []


def test_a_browser_that_fails_is_a_sentence(chromium):
    chromium("exit 3\n")
    with pytest.raises(Failure, match="failed"):
        browser.convert("<html></html>", "png")


def test_a_browser_that_makes_nothing_is_a_sentence(chromium):
    chromium(begin="#!/bin/sh\n")
    with pytest.raises(Failure, match="made no pdf"):
        browser.convert("<html></html>", "pdf")


def test_a_file_of_another_kind_is_refused(twins, tmp_path):
    with pytest.raises(InputError, match="is not html: add --format pdf"):
        page.write(twins[:1], tmp_path / "r.pdf")
