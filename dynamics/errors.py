"""The exceptions that the command line prints as one sentence, without a traceback."""

import signal

ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name)]
"""Signals by which schedulers and shells end a process."""


class InputError(ValueError):
    """Bad input: one sentence that names the file or parameter, what is wrong, and how to fix it; exit code 2."""

    is_told = False  # whether another rank prints it


class Failure(Exception):
    """A run that began well and cannot continue: one sentence on what happened, when, and what is left; exit code 1."""

    is_told = False  # whether another rank prints it


class Interrupted(KeyboardInterrupt):
    """A signal that ends a run as Ctrl-C does; the exit code is 128 + its `number`, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


def in_words(error: BaseException, most: int = 200) -> str:
    """Return what an error says in one line, without a full stop: of one that is not ours, after its kind.

    >>> in_words(KeyError("width")), in_words(InputError("there is no model."))
    ("KeyError: 'width'", 'there is no model')
    """
    if isinstance(error, InputError | Failure):
        return str(error).rstrip(".")
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}".rstrip(".: ")
