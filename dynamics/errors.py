"""The one exception for bad input."""


class Refusal(Exception):
    """Bad input, told in one sentence: what was wrong, where, and how to mend it.

    The command line prints the sentence without a traceback and exits with code 2.
    """
