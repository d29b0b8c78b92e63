"""Write docs/models.md: for every architecture of transformers, whether its capture agrees with the model itself.

`python docs/make_models.py` checks all of them (about half an hour on one core), `python docs/make_models.py bert vit`
only these, and keeps what the page says of the others. Every check runs in a process of its own, with a time limit.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import small_models
import torch
import transformers

from dynamics.capture.check import REFUSED, UNVERIFIED, VERIFIED, check
from dynamics.errors import InputError

PAGE = Path(__file__).parent / "models.md"
NOT_BUILT = "not buildable"
VERDICTS = (VERIFIED, UNVERIFIED, REFUSED, NOT_BUILT)
SECONDS = 60
ROW = re.compile(r"\| `([^`]+)` \| (.*) \| (.*) \| (.*) \| (.*) \|")


class Entry(NamedTuple):
    """What the page says of an architecture."""

    name: str
    verdict: str
    why: str


def judge(name: str) -> Entry:
    """Build an architecture small, run it and check its capture."""
    try:
        model, batch = _running(name)
    except Exception as error:  # every architecture raises its own
        return Entry(name, NOT_BUILT, _short(error))
    try:
        verdict = check(model, batch)
    except InputError as error:
        return Entry(name, REFUSED, _short(error))
    if verdict.word != VERIFIED:
        return Entry(name, verdict.word, _short(str(verdict).partition(": ")[2]))
    compared = [row.what for row in verdict.comparisons if row.what != "output"]
    return Entry(name, VERIFIED, "; ".join(compared))


def _running(name: str) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """Return the smallest model of an architecture that runs, and what it runs on; raise the first error if none."""
    first: Exception | None = None
    for keep in small_models.VARIANTS:
        try:
            model = small_models.build(name, keep)
            for batch in small_models.inputs(model):
                try:
                    with torch.no_grad():
                        model(**batch)
                    return model, batch
                except Exception as error:  # every architecture raises its own
                    first = first or error
        except Exception as error:  # every architecture raises its own
            first = first or error
    raise first or ValueError("no inputs")


def _short(text: object) -> str:
    """Return the first line of a reason, without paths and what Markdown would read as a table."""
    lines = [line.strip() for line in str(text).splitlines() if line.strip()]
    line = next((line for line in lines if "Class validation error" not in line), type(text).__name__)
    line = re.sub(r" from '[^']*'|<module |\(\+\d+[^)]*\)", "", line).replace("|", "/")
    return line[:157] + "..." if len(line) > 160 else line


def guarded(names: Iterable[str]) -> Iterator[Entry]:
    """Yield an entry for each name, from a process of its own that ends after `SECONDS`."""
    for name in names:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            os.write(write, json.dumps(judge(name)).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            content = pipe.read()
        os.waitpid(child, 0)
        yield Entry(*json.loads(content)) if content else Entry(name, NOT_BUILT, f"it takes more than {SECONDS} s")


def read_page() -> dict[str, Entry]:
    """Return what the page says, by name."""
    entries = {}
    for match in ROW.finditer(PAGE.read_text() if PAGE.is_file() else ""):
        name, *cells = match.groups()
        verdict, why = next((verdict, cell) for verdict, cell in zip(VERDICTS, cells, strict=True) if cell.strip())
        entries[name] = Entry(name, verdict, why)
    return entries


def page(entries: Iterable[Entry]) -> str:
    """Return the whole page."""
    entries = sorted(entries)
    counts = Counter(entry.verdict for entry in entries)
    built = sum(counts.values()) - counts[NOT_BUILT]
    rows = []
    for name, verdict, why in entries:
        rows.append(f"| `{name}` | " + " | ".join(why if verdict == x else "" for x in VERDICTS) + " |")
    return f"""# Models

What is captured of a model is compared with what the model itself computes: its hidden states, its attention weights
(on its eager path, else what its kernels make of one-hot values), its output without hooks, and the tokens that its
mask marks. `dynamics check MODEL` prints the comparison for any model; `scan`, `cone`, `probe` and `fit` make it on the
first batch, and refuse a model that disagrees. Values must agree to 1e-4 of the greatest.

Below it is made for every architecture of transformers {transformers.__version__} that can be built small, with random
weights and inputs (padded where the architecture takes a mask). `python docs/make_models.py` writes this page.

| | architectures |
|---|---|
| built and run | {built} |
| verified | {counts[VERIFIED]} |
| unverified: the model offers nothing to compare some of it with | {counts[UNVERIFIED]} |
| refused, with the reason | {counts[REFUSED]} |
| not buildable small, with the reason | {counts[NOT_BUILT]} |

| architecture | verified | unverified | refused | not buildable |
|---|---|---|---|---|
""" + "".join(f"{row}\n" for row in rows)


def main() -> None:
    """Check the architectures that are named, or all, and write the page."""
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    names = sys.argv[1:] or small_models.names()
    entries = read_page() if sys.argv[1:] else {}
    for entry in guarded(names):
        entries[entry.name] = entry
        print(f"{entry.name}: {entry.verdict}: {entry.why}", flush=True)
        PAGE.write_text(page(entries.values()))  # as it grows: all of them take half an hour


if __name__ == "__main__":
    main()
