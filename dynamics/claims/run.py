"""`dynamics claims`: runs read, claims judged, verdicts written. No torch here."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from dynamics.claims import CLAIMS
from dynamics.claims.evidence import load
from dynamics.claims.judge import judge
from dynamics.claims.table import as_json, table
from dynamics.errors import InputError
from dynamics.files import write_atomically


def claims(names: Sequence[str | Path], json: Path | None = None, out: Path | None = None) -> Grid:
    """Judge all claims by runs, write the verdicts to `json` and a page to `out`, and return them as a table.

    Raises:
        InputError: a run is missing or has no rows, or a file cannot be written. Nothing is left half written.
    """
    for option, path in (("json", json), ("out", out)):
        if path is not None and (path.is_dir() or not path.parent.is_dir()):
            raise InputError(f"--{option} {path}: name a file in a folder that exists.")
    study = load(names)
    judgements = judge(study, CLAIMS)
    if json is not None:
        text = as_json(judgements).encode()
        write_atomically(json, lambda file: file.write(text), digest=False)
    if out is not None:
        from dynamics.claims import page

        page.write(study, judgements, out)
    return table(judgements)
