"""The record of a run: rows in Parquet parts, and arrays beside them. No torch here.

A run leaves `checkpoints/<run>/record/`: one `geometry-*.parquet` for each measured step, `curves-*.parquet`
for every block of 100 steps, and `arrays-*.parquet` under the same key as the geometry rows. Every file is
written to a hidden sibling and renamed, so a kill leaves no half part and a resume overwrites.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dynamics.errors import InputError, in_words
from dynamics.files import Writer, digests, is_damaged, write_atomically
from dynamics.runs import WITHOUT, resolve

BLOCK = 100  # steps in one part of the curves

SCHEMA = 2  # of the columns of a part, in its metadata; parts of 1, or that do not say one, end with `n`
_VERSION = b"dynamics.schema"

SITES = (
    *("residual", "query", "key", "value", "attention", "weight", "output", "sentence", "token"),
    *("train", "validation", "test", "cost"),
)

NAN = float("nan")
Filters = list[tuple[str, str, Any]] | None
Runs = str | Path | Sequence[str | Path]


class Row(NamedTuple):
    """One measured value. The key is everything before `value`."""

    run: str
    subject: str
    condition: str
    step: int
    site: str
    layer: int  # -1 none, 0 the embeddings, 1..L the residual stream after each block
    head: int  # -1 the mean over heads, or none
    metric: str
    value: float
    low: float = NAN  # with `high` a 95 % interval of sampling error
    high: float = NAN
    n: int = 0  # points the value is computed from
    windows: int = 0  # independent windows behind the interval
    n_effective: float = NAN  # independent points that would say as much as the `n` dependent ones
    reason: str = ""  # why there is no value, or no interval


KEY = list(Row._fields[:8])
COLUMNS = list(Row._fields)
_KEY_TYPES = ("string", "string", "string", "int64", "string", "int16", "int16", "string")
_KEY_FIELDS = list(zip(KEY, _KEY_TYPES, strict=True))
_VALUE_FIELDS = [("value", "float64"), ("low", "float64"), ("high", "float64"), ("n", "int64")]
_ADDED = [("windows", "int64"), ("n_effective", "float64"), ("reason", "string")]  # with schema 2
_ROWS = pa.schema([*_KEY_FIELDS, *_VALUE_FIELDS, *_ADDED])
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
    """Return settings as sorted `key=value` pairs, separated by commas, with `%`, `,` and `=` percent-encoded.

    >>> condition(seed=1, beta=0.5), condition(against="a,b")
    ('beta=0.5,seed=1', 'against=a%2Cb')
    """
    return ",".join(f"{_escaped(key)}={_escaped(settings[key])}" for key in sorted(settings))


def _escaped(text: object) -> str:
    return str(text).replace("%", "%25").replace(",", "%2C").replace("=", "%3D")


def parse_condition(text: str) -> dict[str, str]:
    """Return the settings of a condition, as text.

    >>> parse_condition("against=a%2Cb,seed=1"), parse_condition("")
    ({'against': 'a,b', 'seed': '1'}, {})
    """
    pairs = (pair.partition("=") for pair in text.split(",") if pair)
    return {unquote(key): unquote(value) for key, _, value in pairs}


class Record:
    """Writes the record of one run into `folder` (the run's own folder), at once unless a `writer` does it later."""

    def __init__(self, folder: Path, writer: Writer | None = None) -> None:
        self.folder, self._writer = folder / "record", writer or Writer()
        self._block = self._highest = -1
        self._curves: dict[tuple[object, ...], Row] = {}

    def write(self, step: int, rows: Sequence[Row], arrays: Sequence[Array] = (), part: str = "") -> None:
        """Write one geometry part; the same (step, part: of a scan, subject and condition) again replaces it."""
        name = f"{step:010d}" + (f"-{hashlib.sha1(part.encode()).hexdigest()[:10]}" if part else "")
        if arrays:
            array_rows = [(*astuple(a)[:-1], list(a.values.shape), a.values.ravel()) for a in arrays]
            self._write(f"arrays-{name}.parquet", _ARRAYS, array_rows)
        self._write(f"geometry-{name}.parquet", _ROWS, rows)

    def add_curves(self, rows: Iterable[Row]) -> None:
        """Add rows of the learning curves and of the cost; a key given twice keeps its newest value."""
        for row in rows:
            block = max(row.step - 1, 0) // BLOCK
            if block != self._block:
                self.flush()
                if block <= self._highest:
                    self._writer.finish()  # its part may be on its way
                self._block, self._highest, self._curves = block, max(block, self._highest), {}
                if (path := self.folder / self._curves_name(block)).exists():
                    self._curves = {old[:8]: old for old in _rows(read_part(path))}
            self._curves[row[:8]] = row

    def flush(self) -> None:
        """Write the block of curves that is being filled."""
        if self._curves:
            self._write(self._curves_name(self._block), _ROWS, list(self._curves.values()))

    def newest(self, site: str, metric: str, step: int, count: int) -> list[float]:
        """Return the last `count` finite values of a curve up to `step` that are written, oldest first."""
        self._writer.finish()
        values: list[float] = []
        for path in sorted(self.folder.glob("curves-*.parquet"), reverse=True):
            rows = (row for row in _rows(read_part(path)) if (row.site, row.metric) == (site, metric))
            steps = sorted((row.step, row.value) for row in rows if row.step <= step and math.isfinite(row.value))
            values[:0] = [value for _, value in steps]
            if len(values) >= count:
                break
        return values[-count:]

    def cut(self, step: int) -> None:
        """Forget everything after `step`: what a run that resumes from there will write again."""
        self.flush()
        self._writer.finish()
        self._block, self._curves = -1, {}
        for path in [*self.folder.glob("geometry-*.parquet"), *self.folder.glob("arrays-*.parquet")]:
            if int(path.stem.split("-")[1]) > step:
                path.unlink()
        for path in self.folder.glob("curves-*.parquet"):
            rows = _rows(read_part(path))
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
        columns: list[Sequence[Any]] = list(zip(*rows, strict=True)) if rows else [[] for _ in schema]
        arrays = [pa.array(column, item.type) for column, item in zip(columns, schema, strict=True)]
        table = pa.table(arrays, schema=schema.with_metadata({_VERSION: str(SCHEMA)}))
        path = self.folder / name
        self._writer.submit(lambda: write_atomically(path, lambda file: pq.write_table(table, file)))


def _rows(table: pa.Table) -> list[Row]:
    return [Row(*row) for row in zip(*(table[name].to_pylist() for name in COLUMNS), strict=True)]


class DamagedPart(InputError):
    """A part of a record that cannot be read."""


def read_part(path: Path, filters: Filters = None) -> pa.Table:
    """Return one part as a table; refuse one that is damaged, cannot be read, or has a newer schema."""
    if is_damaged(path):
        raise DamagedPart(f"{path} is damaged: it is not what was written; {WITHOUT}.")
    try:
        if filters:
            table = pq.read_table(path, filters=filters)
        else:  # at a third of the price, which counts where parts are many and small
            with pq.ParquetFile(path) as file:
                table = file.read(use_threads=False)
        version = int((table.schema.metadata or {}).get(_VERSION, b"0"))
        if version > SCHEMA:
            raise InputError(
                f"{path} has schema version {version}, this dynamics reads up to {SCHEMA}: install a newer one."
            )
        schema = _ARRAYS if path.name.startswith("arrays-") else _ROWS
        for name, kind in () if schema is _ARRAYS else _ADDED:
            if name not in table.column_names:
                default = pa.scalar(Row._field_defaults[name], kind)
                table = table.append_column(name, pa.repeat(default, len(table)))
        table = table.select(schema.names).replace_schema_metadata(None)
        table = table if table.schema.equals(schema) else table.cast(schema)
        if any(column.null_count for column in table.itercolumns()):
            raise ValueError("a value is missing in it")
        if path.name not in digests(path.parent):
            table.validate(full=True)
        if schema is _ARRAYS:
            shapes, sizes = table["shape"].to_pylist(), pc.list_value_length(table["values"]).to_pylist()
            if any(
                min(shape, default=0) < 0 or math.prod(shape) != size for shape, size in zip(shapes, sizes, strict=True)
            ):
                raise ValueError("an array in it has another size than its shape")
        elif path.name.startswith("curves-"):
            table = _with_test_site(table)
        return table
    except InputError:
        raise
    except Exception as error:  # arrow trips over whatever the content makes it trip over
        raise DamagedPart(f"{path} is not a readable Parquet part ({in_words(error)}): {WITHOUT}.") from error


def _with_test_site(table: pa.Table) -> pa.Table:
    """Return curves in which results on the test split have a site; older runs gave those of validation a condition."""
    is_test = pc.equal(table["condition"], "split=test")
    for name, text in (("site", "test"), ("condition", "")) if pc.any(is_test).as_py() else ():
        table = table.set_column(KEY.index(name), name, pc.if_else(is_test, text, table[name]))
    return table


def require_intact(folder: Path) -> None:
    """Refuse a run's damaged part before the run goes on, not when its report is drawn."""
    for path in sorted((folder / "record").glob("*.parquet")):
        read_part(path)


def _parts(runs: Runs, pattern: str, filters: Filters = None, damaged: list[Path] | None = None) -> Iterator[pa.Table]:
    for folder in [resolve(run) for run in ([runs] if isinstance(runs, str | Path) else runs)]:
        for path in sorted((folder / "record").glob(pattern)):
            try:
                yield read_part(path, filters)
            except DamagedPart:
                if damaged is None:
                    raise
                damaged.append(path)


def read(runs: Runs, conditions: bool = False, damaged: list[Path] | None = None) -> pd.DataFrame:
    """Return every row of runs (names or paths), sorted by key, with the columns of `Row`; see `with_conditions`.

    Parts that cannot be read are refused; with a list `damaged` they are left out and added to it.
    """
    tables = [*_parts(runs, "geometry-*.parquet", damaged=damaged), *_parts(runs, "curves-*.parquet", damaged=damaged)]
    frame = pa.concat_tables(tables or [_ROWS.empty_table()]).to_pandas()
    frame = frame.sort_values(KEY, ignore_index=True)
    return with_conditions(frame) if conditions else frame


def with_conditions(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with a column, of text, for every key of its `condition` column; missing where a row has none.

    A key that is the name of a column already gets `condition_` in front.
    """
    settings = {text: parse_condition(text) for text in frame["condition"].unique()}
    columns = {}
    for key in sorted({key for parsed in settings.values() for key in parsed}):
        values = {text: parsed.get(key) for text, parsed in settings.items()}
        columns[f"condition_{key}" if key in COLUMNS else key] = frame["condition"].map(values)
    return frame.assign(**columns)


def read_arrays(runs: Runs, filters: Filters = None, damaged: list[Path] | None = None) -> list[Array]:
    """Return every array of one run or of many; of `filters` such as `[("head", "=", -1)]`, only what passes.

    `damaged` is as in `read`.
    """
    arrays = []
    for table in _parts(runs, "arrays-*.parquet", filters, damaged):
        for row in table.to_pylist():
            values, shape = np.asarray(row.pop("values"), dtype=float), row.pop("shape")
            arrays.append(Array(**row, values=values.reshape(shape)))
    return arrays
