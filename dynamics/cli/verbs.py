"""The verbs that need no training: each takes its arguments and hands over to the room that does the work."""

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from dynamics.config import read_config, refuse_parsing, split_options
from dynamics.errors import Failure, InputError


class Known(argparse.ArgumentParser):
    """A parser of some words among others that refuses in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong, without the usage text."""
        raise InputError(f"{self.prog}: {message}.")


class Parser(ArgumentParser):
    """A parser that refuses in one sentence."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what is wrong, without the usage text."""
        options = {text.lstrip("-") for action in self._actions for text in action.option_strings}
        refuse_parsing(message, ex, options)


def data(argv: Sequence[str]) -> None:
    """`dynamics data CORPUS`."""
    parser = Parser(prog="dynamics data", description="Show what a corpus holds after cleaning.")
    parser.add_argument("corpus", help="enwik8, sample, auto, or a path (.xml .txt, also .xz .bz2 .gz .zip)")
    parser.add_argument("--vocabulary", default="characters", help="characters or bytes")
    parser.add_argument("--vocabulary_size", type=int, default=205, help="rows for text, <unk> included")
    args = parser.parse_args(list(argv))
    from dynamics.data import summary

    summary.main(args.corpus, args.vocabulary, args.vocabulary_size)


def scan(argv: Sequence[str]) -> None:
    """`dynamics scan MODEL [MODEL ...]`."""
    parser = Parser(prog="dynamics scan", description="Measure any model, layer by layer, as training is measured.")
    add = parser.add_argument
    _loading(add)
    add("--text", help="file (.txt), corpus (enwik8, sample, auto), or hub:NAME[:CONFIG[:SPLIT[:COLUMN]]]")
    add("--lines", action="store_true", help="each line of --text is one input")
    add("--shuffled", action="store_true", help="synthetic control: the tokens of every input in random order")
    add("--images", help="folder of images, or noise (a synthetic control, and the default)")
    add(
        "--audio",
        help="folder of .wav (others with soundfile), or noise (a synthetic control, and the default)",
    )
    add("--tokens", type=int, help="tokens of text at most (a file: all of it)")
    add("--context", type=int, help="tokens in a window (the model's own limit, 512 for running text)")
    add("--inputs", type=int, help="lines, windows, images or clips at most")
    add("--batch_size", type=int, default=16, help="inputs in a batch")
    add("--protocol", help="shape-of-learning (2311.05928) or inherent (2401.12143)")
    args = parser.parse_args(_plain(argv))
    from dynamics.experiments.scan.loop import scan as experiment
    from dynamics.experiments.scan.options import ScanOptions

    folder = experiment(ScanOptions(**vars(args)))
    _draw([folder], folder / "report.html")


def _loading(add: Callable[..., Any]) -> None:
    """The options that every verb has which measures models by name."""
    add("models", nargs="*", help="hub names, folders, runs under checkpoints/, or random:ARCHITECTURE")
    add("--run", help="name of the run under checkpoints/ (made up when missing)")
    add("--resume", help="auto: go on with the run, leaving out what it has already")
    add("--revisions", help="step0,step512 or all: revisions on the step axis (of a run: its steps)")
    add("--module", help="package:factory, a function that gives a torch module, or (module, encode)")
    add("--tokenizer", help="name or folder of the tokenizer, or bytes, where the model brings none")
    add("--metrics", type=dict[str, dict[str, Any] | None] | list[str] | None, help="as in dynamics fit")
    add("--dtype", default="fp32", help="precision to run in: fp32, bf16 or fp16")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    add("--seed", type=int, default=0, help="of random weights, noise, shuffling and resampling")
    add("--config_overrides", type=dict[str, Any], default={}, help="of random:ARCHITECTURE: {hidden_size: 64}")
    add("--trust_remote_code", action="store_true", help="run the code that a model brings along")


def _plain(argv: Sequence[str]) -> list[str]:
    """Options with underscores, whichever way they were written."""
    return [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word) for word in argv]


def cone(argv: Sequence[str]) -> None:
    """`dynamics cone MODEL [MODEL ...] --sentences FILE`."""
    parser = Parser(
        prog="dynamics cone",
        description="Sentence vectors: how narrow their cone is, what its axis means, what centring buys.",
    )
    add = parser.add_argument
    _loading(add)
    add("--sentences", help="text file, a sentence a line")
    add("--corpus", action="append", default=[], help="NAME=FILE: other sentences; may be said several times")
    add("--pairs", help="pairs of sentences with scores, tab-separated: STS-B, or score and two sentences")
    add("--compare", default="axes", help="axes (models of one width), or cka (models of any width)")
    add("--pooling", help="mean, cls, last or max, instead of the model's own")
    add("--prompt", help="name of one of the model's prompts, or a text, before every sentence")
    add("--normalize", type=bool | None, help="true or false, instead of what the model does")
    add("--components", type=int | None, help="that all-but-the-top removes (a hundredth of the width)")
    add("--inputs", type=int, help="sentences of each file at most")
    add("--batch_size", type=int, default=32, help="sentences in a batch")
    args = parser.parse_args(_plain(argv))
    from dynamics.experiments.cone.loop import cone as experiment
    from dynamics.experiments.cone.options import ConeOptions

    folder = experiment(ConeOptions(**vars(args)))
    _draw([folder], folder / "report.html")


def probe(argv: Sequence[str]) -> None:
    """`dynamics probe [--config FILE] [--architecture A]`."""
    from dynamics.experiments.probe.design import Settings

    parser = Parser(prog="dynamics probe", description="Feed untrained blocks inputs that share a bias.")
    parser.add_argument("--config", action="config", help="settings as YAML; what stands behind it wins over it")
    parser.add_argument("--run", type=str | None, help="name of the run under checkpoints/ (made up when missing)")
    parser.add_class_arguments(Settings)
    for config in split_options(argv).configs:
        read_config(Path(config))  # names the file where it is no configuration
    args = parser.parse_args(list(argv)).as_dict()
    run, _ = args.pop("run"), args.pop("config")
    settings = Settings(**args)
    from dynamics.experiments.probe.run import probe as experiment

    folder = experiment(settings, run)
    _draw([folder], folder / "report.html")


def sweep(argv: Sequence[str]) -> None:
    """`dynamics sweep CONFIG [--run NAME] [--launcher local] [--dry-run] [options of dynamics fit]`."""
    parser = Known(
        prog="dynamics sweep",
        description="Run `dynamics fit` for every value and seed of a sweep, then draw them on one page.",
        epilog="Other options are those of `dynamics fit`, for every run of the sweep.",
        allow_abbrev=False,
    )
    parser.add_argument("config", type=Path, help="the sweep, for example configs/istar-sweep.yaml")
    parser.add_argument("--run", help="name of the sweep under checkpoints/ (the file's when missing)")
    parser.add_argument("--launcher", default="local", help="where to run: local")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run nothing")
    args, more = parser.parse_known_args(list(argv))
    from dynamics.experiments import sweep as experiment

    name = args.run or args.config.stem
    complete, failed = experiment.sweep(args.config, name, args.launcher, args.dry_run, more)
    if complete:
        from dynamics.runs import CHECKPOINTS

        _draw(complete, CHECKPOINTS / name / "report.html")
    if failed:
        said = "; ".join(f"{run}: {line}" for run, line in failed.items())
        raise Failure(f"{len(failed)} runs of {name} failed ({said})")


def report(argv: Sequence[str]) -> None:
    """`dynamics report RUN [RUN ...] --out FILE.html`."""
    parser = Parser(prog="dynamics report", description="Draw one page that compares runs.")
    parser.add_argument("runs", nargs="+", help="names under checkpoints/, or paths")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="the page to write")
    args = parser.parse_args(list(argv))
    _draw(args.runs, args.out)


def _draw(runs: Sequence[str | Path], out: Path) -> None:
    from dynamics.report import page

    print(f"report: {page.write(runs, out)}")
