"""The verbs that need no training: each takes its arguments and hands over to the room that does the work."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from jsonargparse import ArgumentParser

from dynamics.config import refuse_parsing


class Parser(ArgumentParser):
    """A parser that refuses in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong, without the usage text."""
        refuse_parsing(message, ex)


def data(argv: Sequence[str]) -> None:
    """`dynamics data CORPUS`."""
    parser = Parser(prog="dynamics data", description="Show what a corpus holds after cleaning.")
    parser.add_argument("corpus", help="enwik8, sample, auto, or a path (.xml .txt, also .xz .bz2 .gz .zip)")
    parser.add_argument("--vocabulary", default="characters", help="characters or bytes")
    parser.add_argument("--vocabulary_size", type=int, default=205, help="rows for text, <unk> included")
    args = parser.parse_args(list(argv))
    from dynamics.data import summary

    summary.main(args.corpus, args.vocabulary, args.vocabulary_size)


def report(argv: Sequence[str]) -> None:
    """`dynamics report RUN [RUN ...] --out FILE.html`."""
    parser = Parser(prog="dynamics report", description="Draw one page that compares runs.")
    parser.add_argument("runs", nargs="+", help="names under checkpoints/, or paths")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    args = parser.parse_args(list(argv))
    from dynamics.report import page

    print(f"report: {page.write(args.runs, args.out)}")
