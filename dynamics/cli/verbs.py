"""The verbs: typed functions whose parameters are the options and whose docstrings are the help. No torch here.

What a verb does stands in the room that it imports when it is called. `VERBS`, at the end, maps names to functions.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from dynamics.cli.endings import draw, draw_run, fail_on_suspects
from dynamics.cli.training import fit, fork, test, validate
from dynamics.errors import Failure, InputError
from dynamics.experiments.audit.options import AuditOptions
from dynamics.experiments.cone.options import ConeOptions
from dynamics.experiments.probe.design import ProbeSettings
from dynamics.experiments.scan.options import ScanOptions
from dynamics.experiments.sweep.options import SweepOptions
from dynamics.loading.options import LoadOptions


def data(corpus: str, vocabulary: str = "characters", vocabulary_size: int = 205) -> None:
    """Show what a corpus holds after cleaning.

    Args:
        corpus: enwik8, sample, auto, or a path (.xml .txt, also .xz .bz2 .gz .zip)
        vocabulary: characters or bytes
        vocabulary_size: characters at most, <unk> included; bytes are always 256

    Examples:
        dynamics data sample
        dynamics data enwik8 --vocabulary bytes
        dynamics data my-text.txt --vocabulary_size 100
    """
    from rich.console import Console

    from dynamics.data import corpus as corpora
    from dynamics.data import summary

    Console().print(summary.describe(corpora.load(corpus, vocabulary, vocabulary_size)))


def scan(options: ScanOptions) -> None:
    """Measure any model: pretrained, intermediate, untrained, or the weights of a run.

    Examples:
        dynamics scan bert-base-uncased gpt2 gpt2:untrained --text sample --run models
        dynamics scan checkpoints/decoder --metrics '[effective_rank]' --run past
        dynamics scan EleutherAI/pythia-70m --revisions step0,step512,step143000 --text sample --audit
    """
    from dynamics.experiments.scan.loop import scan as run_scan

    folder = run_scan(options)
    draw_run(folder, options.strict)
    fail_on_suspects(folder)


def audit(options: AuditOptions) -> None:
    """Check that checkpoints are what their steps say: copies, swaps, strangers, and step 0.

    Exit code 1: some are suspect.

    Examples:
        dynamics audit decoder
        dynamics audit EleutherAI/pythia-70m --revisions step0,step512,step143000
        dynamics audit EleutherAI/pythia-70m --hashes_only
    """
    from dynamics.experiments.audit.loop import audit as run_audit

    folder = run_audit(options)
    draw_run(folder)
    fail_on_suspects(folder)


def cone(options: ConeOptions) -> None:
    """Measure how narrow the cone of sentence vectors is, what its axis means, and how centring helps.

    Examples:
        dynamics cone sentence-transformers/all-MiniLM-L6-v2 --sentences nli.txt --pairs sts-test.tsv
        dynamics cone BAAI/bge-large-en-v1.5 bert-large-uncased --sentences nli.txt --corpus news=news.txt
        dynamics cone decoder --sentences nli.txt --run cone-along-training
    """
    from dynamics.experiments.cone.loop import cone as run_cone

    draw_run(run_cone(options), options.strict)


def check(options: LoadOptions) -> None:
    """Compare what is captured of models with what they compute themselves.

    Random inputs are enough: states, queries, keys and attention weights are compared one by one with those that the
    model lists. Exit code 1 where any disagree, or the model cannot be captured.

    Examples:
        dynamics check bert-base-uncased random:vit
        dynamics check checkpoints/decoder --dtype bf16
    """
    from dynamics.experiments.check import check as run_check

    run_check(options)


def probe(settings: ProbeSettings, run: str | None = None, resume: str | None = None, strict: bool = False) -> None:
    """Feed untrained blocks inputs that share a bias.

    Args:
        run: name of the run under checkpoints/ (made up when missing)
        resume: auto: continue the run, leaving out what its record has
        strict: exit code 1 if a metric that was asked for has no value somewhere

    Examples:
        dynamics probe --config configs/probe.yaml --run cone
        dynamics probe --architecture gpt2 --bias input
        dynamics probe --norm '[none, pre, post]' --seeds 3 --run norms
    """
    from dynamics.experiments.probe.run import probe as run_probe

    draw_run(run_probe(settings, run, resume), strict)


def sweep(options: SweepOptions, fit_options: tuple[str, ...] = ()) -> None:
    """Run `dynamics fit` for a grid of settings and seeds, then draw the runs on one page.

    Other options are those of `dynamics fit`, for every run of the sweep.

    Examples:
        dynamics sweep configs/ablation.yaml --dry-run
        dynamics sweep configs/mask.yaml --size tiny --jobs 2
        dynamics sweep configs/istar-sweep-twins.yaml --run twins --trainer.max_steps 500
        dynamics sweep configs/istar-sweep-twins.yaml --launcher slurm --sbatch="--partition=gpu --gpus-per-node=1"
    """
    from dynamics.experiments.sweep.running import sweep as run_sweep
    from dynamics.runs import CHECKPOINTS

    complete, failed = run_sweep(options, fit_options)
    if complete:
        draw(complete, CHECKPOINTS / options.name / "report.html")
    if failed:
        errors = "; ".join(f"{failed_run}: {error}" for failed_run, error in failed.items())
        raise Failure(f"{len(failed)} runs of {options.name} failed ({errors})")


def report(runs: list[str], out: Path | None = None, format: Literal["html", "pdf", "png"] = "html") -> None:
    """Draw one page that compares runs.

    Args:
        runs: names under checkpoints/, or paths (the newest run where none is named); NAME=RUN calls a run NAME
        out: the page to write (default: report.html, or as --format says)
        format: html, or with Chromium or Chrome on the PATH pdf or png

    Examples:
        dynamics report
        dynamics report decoder
        dynamics report decoder encoder causal-mlm --out twins.html
        dynamics report small=decoder-2 large=decoder-3 --format pdf
    """
    from dynamics.runs import newest

    if not runs:
        runs = [newest().name]
        print(f"the newest run is {runs[0]}")
    draw(runs, out or Path(f"report.{format}"), format)


def claims(runs: list[str], json: Path | None = None, out: Path | None = None) -> None:
    """Judge the claims of papers by runs: supported, contradicted, inconclusive or not measurable.

    A claim takes at least 3 seeds, or 3 models of a scan or cone. What each says and its rule: docs/claims.md.

    Args:
        runs: names under checkpoints/, or paths: runs, sweeps, Parquet records (the newest run if none is named)
        json: write the verdicts to this file, as a list of objects
        out: write a page with a figure for each claim to this file

    Examples:
        dynamics claims decoder-0 decoder-1 decoder-2 encoder-0 encoder-1 encoder-2
        dynamics claims my-sweep --json claims.json --out claims.html
        dynamics claims foreign.parquet
    """
    from rich.console import Console

    from dynamics.claims import run as claims_run
    from dynamics.runs import newest

    Console().print(claims_run.claims(runs or [newest().name], json, out))


def watch(runs: list[str], once: Path | None = None, host: str = "127.0.0.1", port: int = 8765) -> None:
    """Follow runs, under way or ended, on a live page in the browser.

    Args:
        runs: names under checkpoints/, or paths (all under checkpoints/ where none is named)
        once: write the page to this file, with the records inside, and serve nothing
        host: where to serve; on any other than 127.0.0.1 the runs can be read from elsewhere, without a password
        port: where to serve; the next free one where it is in use

    Examples:
        dynamics watch
        dynamics watch decoder encoder
        dynamics watch decoder encoder --once twins-so-far.html
    """
    from dynamics.watch import serve

    if once is None:
        serve.serve(runs, host, port)
        return
    for option, value, default in (("host", host, serve.HOST), ("port", port, serve.PORT)):
        if value != default:
            raise InputError(f"--{option} has no effect with --once; remove it.")
    print(f"page: {serve.write_page(runs, once)}")


def workspace(project: str = "dynamics", entity: str | None = None, print_spec: bool = False) -> None:
    """Save a view of a W&B project: few panels in sections, layers overlaid, twins side by side, seeds as bands.

    Args:
        project: W&B project
        entity: W&B user or team (the account's default when missing)
        print_spec: print the view as JSON and send nothing

    Examples:
        dynamics workspace --project dynamics
        dynamics workspace --project dynamics --entity my-team --print-spec
    """
    from dynamics.loggers import workspace as view

    print(view.spec(project, entity) if print_spec else f"workspace: {view.save(project, entity)}")


def verify(runs: list[str]) -> None:
    """Check that the files of runs are what was written, and say what can be measured again.

    Exit code 1: some are damaged.

    Args:
        runs: names under checkpoints/, or paths (the newest run where none is named)

    Examples:
        dynamics verify
        dynamics verify decoder encoder
    """
    from dynamics.runs import newest
    from dynamics.verify import verify as check_files

    found = [check_files(run) for run in runs or [newest().name]]
    print("\n".join(map(str, found)))
    if count := sum(len(findings.damaged) for findings in found):
        raise Failure(f"{count} {'files are' if count > 1 else 'file is'} damaged.")


def completion(shell: Literal["bash", "zsh", "fish"], line: str | None = None) -> None:
    """Print a script for the shell that completes verbs, options, runs and configurations.

    Args:
        shell: bash, zsh or fish
        line: a command line so far: print what may follow (the script asks this)

    Examples:
        eval "$(dynamics completion bash)"                                         # in ~/.bashrc
        eval "$(dynamics completion zsh)"                                          # in ~/.zshrc, after compinit
        dynamics completion fish > ~/.config/fish/completions/dynamics.fish
    """
    from dynamics.cli.completion import SCRIPTS, offers

    if line is None:
        print(SCRIPTS[shell])
        return
    # bash takes what follows = or : for a word of its own.
    words = [re.sub(r".*[=:]", "", offer) if shell == "bash" else offer for offer in offers(line, VERBS)]
    print("\n".join(words))


VERBS: dict[str, Callable[..., None]] = {
    verb.__name__: verb
    for verb in (
        *(fit, fork, validate, test, data, scan, audit, cone, check, probe, sweep),
        *(report, claims, watch, workspace, verify, completion),
    )
}
