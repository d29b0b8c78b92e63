"""The record of a run: rows in Parquet parts, arrays beside them, and `run.json`. No torch here.

A run leaves `checkpoints/<run>/record/`: one `geometry-*.parquet` for each measured step, `curves-*.parquet`
for every block of 100 steps, and `arrays-*.parquet` under the same key as the geometry rows. Every file is
written to a hidden sibling and renamed, so a kill leaves no half part and a resume overwrites.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dynamics.errors import InputError

CHECKPOINTS = Path("checkpoints")
BLOCK = 100
"""Steps in one part of the curves."""

SITES = (
    *("residual", "query", "key", "attention", "weight", "output", "sentence", "token"),
    *("train", "validation", "cost"),
)

NAN = float("nan")
Filters = list[tuple[str, str, Any]] | None


class Row(NamedTuple):
    """One measured value. The key is everything before `value`.

    `layer` -1 means none, 0 the embeddings, 1..L the residual stream after each block; `head` -1 means the mean
    over heads (or none). `low` and `high` bound a 95 % interval of sampling error, NaN where there is none; `n`
    is the number of points behind the value.
    """

    run: str
    subject: str
    condition: str
    step: int
    site: str
    layer: int
    head: int
    metric: str
    value: float
    low: float = NAN
    high: float = NAN
    n: int = 0


KEY = list(Row._fields[:8])
COLUMNS = list(Row._fields)
_KEY_FIELDS = [
    ("run", pa.string()),
    ("subject", pa.string()),
    ("condition", pa.string()),
    ("step", pa.int64()),
    ("site", pa.string()),
    ("layer", pa.int16()),
    ("head", pa.int16()),
    ("metric", pa.string()),
]
_ROWS = pa.schema(
    [*_KEY_FIELDS, ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64()), ("n", pa.int64())]
)
_ARRAYS = pa.schema([*_KEY_FIELDS, ("shape", pa.list_(pa.int64())), ("values", pa.list_(pa.float64()))])


@dataclass(frozen=True)
class Array:
    """An array (a histogram, a spectrum, an axis) that belongs to the row with the same key."""

    run: str
    subject: str
    condition: str
    step: int
    site: str
    layer: int
    head: int
    metric: str
    values: np.ndarray


def condition(**settings: object) -> str:
    """Settings as the `condition` column has them: sorted `key=value` pairs.

    >>> condition(seed=1, beta=0.5)
    'beta=0.5,seed=1'
    """
    return ",".join(f"{key}={settings[key]}" for key in sorted(settings))


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Have `write` fill a hidden sibling of `path`, flush it to the disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class Record:
    """Writes the record of one run into `folder` (the run's own folder)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "record"
        self._block = -1
        self._curves: dict[tuple[object, ...], Row] = {}

    def write(self, step: int, rows: Sequence[Row], arrays: Sequence[Array] = (), part: str = "") -> None:
        """Write one geometry part; the same (step, part) again replaces it.

        `part` tells apart what shares a step: the subject and condition of a scan, for example.
        """
        name = f"{step:010d}" + (f"-{hashlib.sha1(part.encode()).hexdigest()[:10]}" if part else "")
        if arrays:
            self._write(
                f"arrays-{name}.parquet",
                _ARRAYS,
                [(*astuple(a)[:-1], list(a.values.shape), a.values.ravel()) for a in arrays],
            )
        self._write(f"geometry-{name}.parquet", _ROWS, rows)

    def add_curves(self, rows: Iterable[Row]) -> None:
        """Add rows of the learning curves and of the cost; a key given twice keeps its newest value."""
        for row in rows:
            block = max(row.step - 1, 0) // BLOCK
            if block != self._block:
                self.flush()
                self._block, self._curves = block, {}
                path = self.folder / self._curves_name(block)
                if path.exists():
                    self._curves = {old[:8]: old for old in _rows(_part(path))}
            self._curves[row[:8]] = row

    def flush(self) -> None:
        """Write the block of curves that is being filled."""
        if self._curves:
            self._write(self._curves_name(self._block), _ROWS, list(self._curves.values()))

    def cut(self, step: int) -> None:
        """Forget everything after `step`: what a run that resumes from there will write again."""
        self.flush()
        self._block, self._curves = -1, {}
        for path in [*self.folder.glob("geometry-*.parquet"), *self.folder.glob("arrays-*.parquet")]:
            if int(path.stem.split("-")[1]) > step:
                path.unlink()
        for path in self.folder.glob("curves-*.parquet"):
            rows = _rows(_part(path))
            kept = [row for row in rows if row.step <= step]
            if not kept:
                path.unlink()
            elif len(kept) < len(rows):
                self._write(path.name, _ROWS, kept)

    @staticmethod
    def _curves_name(block: int) -> str:
        return f"curves-{block * BLOCK:010d}.parquet"

    def _write(self, name: str, schema: pa.Schema, rows: Sequence[Sequence[Any]]) -> None:
        keys = [tuple(row[:8]) for row in rows]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"two rows share the key {twice}")
        columns = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
        write_atomically(self.folder / name, lambda file: pq.write_table(table, file))


def _rows(table: pa.Table) -> list[Row]:
    return [Row(*row) for row in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]


def new(name: str) -> Path:
    """The folder of a run that is to be made.

    >>> str(new("decoder"))
    'checkpoints/decoder'

    Raises:
        InputError: `name` is a path.
    """
    if Path(name).name != name or name == "..":
        raise InputError(f"--run {name}: give a name, not a path; runs lie under {CHECKPOINTS}/.")
    return CHECKPOINTS / name


def resolve(run: str | Path) -> Path:
    """The folder of a run given by name (under `checkpoints/`) or by path.

    Raises InputError where there is none, with the nearest names that exist.
    """
    for folder in (CHECKPOINTS / run, Path(run)):
        if (folder / "record").is_dir() or (folder / "run.json").is_file():
            return folder
    known = [path.name for path in CHECKPOINTS.glob("*") if (path / "run.json").is_file()]
    near = get_close_matches(str(run), known, n=3) or sorted(known)[:3]
    hint = f"did you mean {', '.join(near)}?" if near else "train one with `dynamics fit`."
    raise InputError(f"no run named {run} (neither a folder nor under {CHECKPOINTS}/): {hint}")


def _part(path: Path, filters: Filters = None) -> pa.Table:
    try:
        return pq.read_table(path, filters=filters)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet part ({error}): delete it.") from error


def _parts(folders: Iterable[Path], pattern: str, filters: Filters = None) -> Iterator[pa.Table]:
    for folder in folders:
        for path in sorted((folder / "record").glob(pattern)):
            yield _part(path, filters)


def _as_folders(runs: str | Path | Sequence[str | Path]) -> list[Path]:
    return [resolve(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]


def read(runs: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """Every row of one run or of many, sorted by key, with the columns of `Row`.

    Args:
        runs: a name under `checkpoints/` or a path, or a sequence of them.
    """
    folders = _as_folders(runs)
    tables = [*_parts(folders, "geometry-*.parquet"), *_parts(folders, "curves-*.parquet")]
    frame = pa.concat_tables(tables or [_ROWS.empty_table()]).to_pandas()
    return frame.sort_values(KEY, ignore_index=True)


def read_arrays(runs: str | Path | Sequence[str | Path], filters: Filters = None) -> list[Array]:
    """Every array of one run or of many.

    Args:
        runs: a name under `checkpoints/` or a path, or a sequence of them.
        filters: read only rows that pass, for example `[("head", "=", -1)]`: there are many arrays.
    """
    found = []
    for table in _parts(_as_folders(runs), "arrays-*.parquet", filters):
        for row in table.to_pylist():
            values = np.asarray(row.pop("values"), dtype=float).reshape(row.pop("shape"))
            found.append(Array(**row, values=values))
    return found


def read_run(run: str | Path) -> dict[str, Any]:
    """The run's `run.json`: model, data hash, seeds, versions, git commit, hardware, estimator settings."""
    path = resolve(run) / "run.json"
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({error}): the run's provenance is missing.") from error


def write_run(folder: Path, provenance: dict[str, Any]) -> None:
    """Write `run.json`."""
    text = json.dumps(provenance, indent=2, default=str) + "\n"
    write_atomically(folder / "run.json", lambda file: file.write(text.encode()))
