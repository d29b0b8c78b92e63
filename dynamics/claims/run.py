"""`dynamics claims`: runs read, claims judged, verdicts written. No torch here."""

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table as Grid

from dynamics.claims import CLAIMS, page
from dynamics.claims.evidence import load
from dynamics.claims.judge import judge
from dynamics.claims.table import as_json, table
from dynamics.errors import InputError
from dynamics.files import write_atomically
from dynamics.report import page as report


def claims(names: Sequence[str | Path], json: Path | None = None, out: Path | None = None) -> Grid:
    """Judge all claims by runs, write the verdicts to `json` and a page to `out`, and return them as a table.

    Raises:
        InputError: a run is missing or has no rows, or a file cannot be written. Nothing is left half written.
    """
    if json is not None and (json.is_dir() or not json.parent.is_dir()):
        raise InputError(f"--json {json}: name a file in a folder that exists.")
    if out is not None:
        report.refuse_unwritable(out)
    study = load(names)
    judgements = judge(study, CLAIMS)
    if json is not None:
        text = as_json(judgements).encode()
        write_atomically(json, lambda file: file.write(text), digest=False)
    if out is not None:
        page.write(study, judgements, out)
    return table(judgements, study.skipped)
