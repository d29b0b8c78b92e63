"""The command line: `dynamics VERB`, errors in one sentence, exit codes.

A new verb takes three files: what it does, in its room; its typed function in `verbs.py`, from which options, help,
examples and completion follow; and its test. A line in the README makes four.
"""

import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from types import FrameType
from typing import NoReturn

import dynamics
from dynamics.cli.verbs import VERBS
from dynamics.errors import ENDING, Failure, InputError, Interrupted
from dynamics.parent import end_with_parent

UNUSABLE = {  # what the user can do something about among the errors of a file or folder
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}

# Threads that wait by spinning stall one another for milliseconds as soon as anything else wants a core. The
# OpenMP runtime reads this once, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb. Exit code 0: done; 2: refused with one sentence; 1: failed; 128 + N: ended by signal N."""
    try:
        try:
            with _interruptible():
                end_with_parent()
                _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of what is printed has left: keep the interpreter's end from writing to it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        place = error.filename or "the disk"
        _exit(2, f"cannot use {place}: {error.strerror}; fix that, or choose another place.")
    except InputError as error:
        _exit(2, "" if error.is_told else str(error))
    except Failure as failure:
        _exit(1, "" if failure.is_told else str(failure))
    except KeyboardInterrupt as error:
        _exit(128 + getattr(error, "number", signal.SIGINT), "interrupted.")


@contextmanager
def _interruptible() -> Iterator[None]:
    """Have the signals that end a process raise, so that a run says how it ended; of ignored ones SIGINT alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # A shell has its background jobs ignore SIGINT, and Python keeps it so: `kill -INT` must end them as Ctrl-C does.
    if is_ignored := signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    taken = [number for number in ENDING if signal.getsignal(number) == signal.SIG_DFL]
    for number in taken:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, signal.SIG_DFL)
        if is_ignored:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise Interrupted(number)


def _run(argv: list[str]) -> None:
    verb, *words = argv or ["--help"]
    if verb in ("-h", "--help"):
        print(_usage())
    elif verb == "--version":
        print(f"dynamics {dynamics.__version__}")
    elif verb in ("fit", "validate", "test"):  # their options are those of Lightning, which is slow to import
        VERBS[verb](*words)
    elif verb in VERBS:
        from dynamics.cli.parser import Parser

        Parser(VERBS[verb]).run(words)
    else:
        near = get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}."
        raise InputError(f"there is no verb {verb}: {hint}")


def _usage() -> str:
    summaries = {name: (verb.__doc__ or "").splitlines()[0] for name, verb in VERBS.items()}
    return (
        "usage: dynamics VERB [options]\n\n"
        "Watch the geometry of a transformer change while it learns.\n\n"
        + "".join(f"  {name:<12}{summary}\n" for name, summary in summaries.items())
        + "\nexamples:\n"
        "  dynamics fit --config configs/decoder.yaml --size tiny --run decoder\n"
        "  dynamics report decoder --out report.html\n\n"
        "`dynamics VERB --help` shows the options of a verb, `dynamics --version` the version."
    )


def _exit(code: int, sentence: str) -> None:
    if sentence:
        print(f"dynamics: {sentence}", file=sys.stderr)
    sys.exit(code)
