"""The exceptions that the command line tells in one sentence."""


class Refusal(Exception):
    """Bad input, told in one sentence: what was wrong, where, and how to mend it.

    The command line prints the sentence without a traceback and exits with code 2.
    """


class Failure(Exception):
    """A run that began well and cannot go on, told in one sentence: what happened, when, and what is left.

    The command line prints the sentence without a traceback and exits with code 1.
    """
