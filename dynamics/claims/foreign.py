"""Records that no run of ours has written: Parquet files with the columns of `docs/record.md`. No torch here."""

from pathlib import Path

import pandas as pd

from dynamics import record, runs
from dynamics.errors import InputError, in_words

NEEDED = ("step", "site", "layer", "metric", "value")
DEFAULTS = {
    **{"run": "", "subject": "", "condition": "", "head": -1, "low": record.NAN, "high": record.NAN, "n": 0},
    **{"windows": 0, "n_effective": record.NAN, "reason": ""},
}


def is_foreign(name: str | Path) -> bool:
    """Whether a name is a Parquet file, or a folder that holds some and is no run."""
    path = Path(name)
    if runs.find(name) is not None:
        return False
    return path.is_file() or (path.is_dir() and any(path.glob("*.parquet")))


def read_foreign(path: Path) -> dict[str, pd.DataFrame]:
    """Return the rows of a Parquet file or folder by run, with conditions as columns.

    Columns that the schema does not have (`seed`, `model`, `objective` ...) count as keys of the condition; `model`
    is also the subject of rows without one.

    Raises:
        InputError: a file cannot be read, or lacks a column.
    """
    files = [path] if path.is_file() else sorted(path.glob("*.parquet"))
    parts = [_read(file) for file in files if not file.name.startswith("arrays-")]
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
    if rows.empty:
        raise InputError(f"{path} holds no rows: name a record that something was measured into.")
    rows["run"] = rows["run"].where(rows["run"] != "", path.stem)
    return {str(run): record.with_conditions(part) for run, part in rows.groupby("run")}


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_parquet(path)
    except Exception as error:  # arrow trips over whatever the content makes it trip over
        raise InputError(f"{path} is not a readable Parquet file ({in_words(error)}): name a record.") from error
    if lacking := [name for name in NEEDED if name not in table]:
        raise InputError(f"{path} lacks the column {lacking[0]}: a record has those of docs/record.md.")
    try:
        return _in_schema(table)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path} has a column of another type ({in_words(error)}): see docs/record.md.") from error


def _in_schema(table: pd.DataFrame) -> pd.DataFrame:
    """Return rows in the columns of the schema, with its types; further columns become keys of the condition."""
    for name, default in DEFAULTS.items():
        table[name] = table[name].fillna(default) if name in table else default
    table = table.astype({"run": str, "subject": str, "condition": str, "step": int, "layer": int, "head": int})
    table = table.astype(dict.fromkeys(("value", "low", "high"), float))
    if "model" in table:
        table["subject"] = table["subject"].where(table["subject"] != "", table["model"].astype(str))
    more = [name for name in table if name not in record.COLUMNS and name != "model"]
    settings = table[["condition", *more]].drop_duplicates()
    conditions = [
        record.condition(
            **record.parse_condition(row["condition"]) | {key: row[key] for key in more if not pd.isna(row[key])}
        )
        for row in settings.to_dict("records")
    ]
    table = table.merge(settings.assign(_condition=conditions), on=["condition", *more])
    return table.assign(condition=table["_condition"])[record.COLUMNS]
