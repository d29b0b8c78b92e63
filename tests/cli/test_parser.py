"""Parsers made of typed functions."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from dynamics.cli.parser import Parser
from dynamics.errors import InputError


@dataclass(frozen=True)
class Base:
    """A base.

    Args:
        models: names, of the base.
        batch_size: inputs in a batch.
        seed: of everything.
    """

    models: list[str]
    batch_size: int = 16
    seed: int = 0


@dataclass(frozen=True)
class Chosen(Base):
    """Options.

    Args:
        seed: `seed` of the draws ...
        lines: whether lines count
        corpus: NAME=FILE
        sizes: several
    """

    batch_size: int = 8
    lines: bool = False
    corpus: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=lambda: [1, 2])

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"batch_size must be at least 1 (got {self.batch_size}).")


@dataclass(frozen=True)
class Settings:
    """Settings that a file may hold."""

    width: int = 4
    norm: Literal["pre", "post"] = "pre"


@pytest.fixture
def calls():
    return []


def run(verb, *words):
    Parser(verb).run(words)


@pytest.fixture
def measure(calls):
    def measure(options: Chosen, out: Path = Path("out.html")) -> None:
        """Measure it.

        Args:
            out: the page

        Examples:
            dynamics measure a
            dynamics measure b --lines
        """
        calls.append((options, out))

    return measure


def test_options_are_the_fields_and_their_defaults(measure, calls):
    run(measure, "a", "b")
    assert calls == [(Chosen(models=["a", "b"]), Path("out.html"))]


@pytest.mark.parametrize("option", ["--batch_size", "--batch-size"])
def test_an_option_is_written_with_either_line(measure, calls, option):
    run(measure, "a", option, "3")
    run(measure, f"{option}=4")
    assert [options.batch_size for options, _ in calls] == [3, 4]


def test_switches_repeated_options_and_yaml(measure, calls):
    run(measure, "--lines", "--corpus", "a=b", "--corpus", "c=d", "--sizes", "[3]", "--out", "x")
    assert calls == [(Chosen([], lines=True, corpus=["a=b", "c=d"], sizes=[3]), Path("x"))]


def test_an_error_of_the_library_is_about_the_option(measure):
    with pytest.raises(InputError, match=r"^--batch_size must be at least 1 \(got 0\)\.$"):
        run(measure, "--batch_size", "0")


def test_what_help_shows(measure):
    text = Parser(measure).format_help()
    assert text.startswith("usage: dynamics measure MODEL ... [options]\n\nMeasure it.\n")
    assert "--batch_size, --batch-size BATCH_SIZE" in text
    assert "inputs in a batch (default: 8)" in text
    assert "seed of the draws ... (default: 0)" in text
    assert "whether lines count\n" in text
    assert text.endswith("examples:\n  dynamics measure a\n  dynamics measure b --lines\n")


def test_a_file_holds_settings_and_options_win_over_it(calls, tmp_path):
    def probe(settings: Settings, run: str | None = None) -> None:
        """Probe."""
        calls.append((settings, run))

    path = tmp_path / "probe.yaml"
    path.write_text("width: 8\nnorm: post\n")
    run(probe, "--width", "2", "--config", str(path), "--width", "16", "--run", "a")
    assert calls == [(Settings(16, "post"), "a")]
    path.write_text("heads: 8\n")
    with pytest.raises(InputError, match="there is no option --heads"):
        run(probe, "--config", str(path))


def test_other_options_go_to_another_verb(calls):
    def sweep(config: Path, fit_options: tuple[str, ...] = (), run: str | None = None, dry_run: bool = False) -> None:
        """Sweep."""
        calls.append((config, fit_options, run, dry_run))

    run(sweep, "--dry-run", "s.yaml", "--model.depth", "3", "--run=a", "--model.regularizers+=IStar")
    assert calls == [(Path("s.yaml"), ("--model.depth", "3", "--model.regularizers+=IStar"), "a", True)]
    assert Parser(sweep).format_usage() == "usage: dynamics sweep CONFIG [options] [fit options]\n"
