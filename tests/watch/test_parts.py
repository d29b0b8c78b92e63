import numpy as np
import pytest

from dynamics import record
from dynamics.errors import InputError
from dynamics.record import NAN, Row
from dynamics.watch import parts


def write(folder, *rows):
    record.Record(folder).write(4, [Row("r", "", "", 4, *row) for row in rows])
    return folder / "record" / "geometry-0000000004.parquet"


def test_values_stand_by_quantity_and_heads_apart(tmp_path):
    rows = [("residual", layer, -1, "anisotropy", 0.1 * layer, 0.0, 1.0) for layer in (0, 1)]
    path = write(
        tmp_path, *rows, ("query", 1, -1, "drift", 3.0), *[("query", 1, head, "drift", 2.0 + head) for head in (0, 1)]
    )
    key = {"subject": "", "condition": "", "step": 4}
    assert parts.geometry(path) == [
        key
        | {
            "site": "residual",
            "metric": "anisotropy",
            "layers": [0, 1],
            "values": [0.0, 0.1],
            "low": [0.0, 0.0],
            "high": [1.0, 1.0],
        },
        key | {"site": "query", "metric": "drift", "layers": [1], "values": [3.0]},
    ]
    assert parts.geometry(path, heads=True) == [
        key | {"site": "query", "metric": "drift", "layers": [1, 1], "heads": [0, 1], "values": [2.0, 3.0]}
    ]


@pytest.mark.parametrize(
    ("value", "reason", "why"), [(NAN, "no two neighbours", "no two neighbours"), (np.inf, "", "the value is inf")]
)
def test_what_json_cannot_hold_is_missing_and_says_why(tmp_path, value, reason, why):
    path = write(tmp_path, ("residual", 1, -1, "kurtosis", value, NAN, NAN, 0, 0, NAN, reason))
    (group,) = parts.geometry(path)
    assert (group["values"], group["why"]) == ([None], [why])


def test_training_is_thinned_in_a_long_run_and_validation_is_not(tmp_path):
    out = record.Record(tmp_path)
    steps = range(1, record.BLOCK + 1)
    out.add_curves(
        Row("r", "", "", step, site, -1, -1, "loss", 1 / step) for step in steps for site in ("train", "validation")
    )
    out.flush()
    (path,) = (tmp_path / "record").glob("*.parquet")
    whole = {group["site"]: group for group in parts.curves(path, 1)}
    assert whole["train"]["steps"] == whole["validation"]["steps"] == [*steps]
    thinned = {group["site"]: group for group in parts.curves(path, 300)}
    assert thinned["train"]["steps"] == [30, 60, 90, 100]
    assert thinned["train"]["values"] == [1 / step for step in (30, 60, 90, 100)]
    assert thinned["validation"] == whole["validation"]


def test_a_file_that_is_no_part_is_refused(tmp_path):
    (tmp_path / "geometry-0.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="not a readable Parquet part"):
        parts.geometry(tmp_path / "geometry-0.parquet")
