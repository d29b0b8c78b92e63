"""The exceptions that the command line prints as one sentence, without a traceback."""


class InputError(ValueError):
    """Bad input: one sentence that names the file or parameter, what is wrong, and how to fix it; exit code 2."""


class Failure(Exception):
    """A run that began well and cannot continue: one sentence on what happened, when, and what is left; exit code 1."""
