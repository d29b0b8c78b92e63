"""The exceptions that the command line prints as one sentence."""


class InputError(ValueError):
    """Bad input: one sentence that names the file or parameter, what is wrong, and how to fix it.

    The command line prints the sentence without a traceback and exits with code 2.
    """


class Failure(Exception):
    """A run that began well and cannot continue: one sentence that says what happened, when, and what is left.

    The command line prints the sentence without a traceback and exits with code 1.
    """
