"""The command line: verbs, each imported when it is called."""

import errno
import os
import sys
from collections.abc import Callable, Sequence
from difflib import get_close_matches

from dynamics.errors import Failure, InputError

VERBS = {
    "fit": "train a model and measure it while it learns",
    "validate": "loss of a run on the validation split",
    "test": "loss of a run on the whole test split",
    "data": "show what a corpus holds after cleaning",
    "scan": "measure any model: pretrained, intermediate, untrained, or a run's weights",
    "cone": "sentence vectors: how narrow their cone is, what its axis means, what centring buys",
    "probe": "feed untrained blocks inputs that share a bias",
    "sweep": "run `fit` for every value and seed of a sweep",
    "report": "draw one page that compares runs",
}
UNUSABLE = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
}
USAGE = "usage: dynamics VERB [options]\n\n" + "\n".join(f"  {verb:<10}{text}" for verb, text in VERBS.items())


def _verb(name: str) -> Callable[[Sequence[str]], None]:
    if name in ("fit", "validate", "test"):
        from dynamics.training import fit

        return lambda argv: fit.main(name, argv)
    from dynamics.cli import verbs

    return getattr(verbs, name)


# Threads that wait by spinning stall one another for milliseconds as soon as anything else wants a core. The
# OpenMP runtime reads this once, before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one verb. Exit code 0: done; 2: refused with one sentence; 1: failed."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE + "\n\n`dynamics VERB --help` lists the options of a verb.")
        return
    try:
        if argv[0] not in VERBS:
            near = get_close_matches(argv[0], VERBS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(VERBS)}."
            raise InputError(f"there is no verb {argv[0]}: {hint}")
        _verb(argv[0])(argv[1:])
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        where = error.filename or "the disk"
        print(
            f"dynamics: cannot use {where}: {error.strerror}; mend that, or choose another place.",
            file=sys.stderr,
        )
        sys.exit(2)
    except InputError as refusal:
        print(f"dynamics: {refusal}", file=sys.stderr)
        sys.exit(2)
    except Failure as failure:
        print(f"dynamics: {failure}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("dynamics: interrupted.", file=sys.stderr)
        sys.exit(1)
