"""What a record has no value for is named with its reason."""

import pandas as pd

from dynamics.missing import not_measured
from dynamics.record import COLUMNS, Row


def test_what_was_not_measured_is_named_once_with_its_reason():
    nan = float("nan")
    rows = [
        *(Row("r", "m@a", "", step, "attention", layer, head, "entropy", nan, reason="no softmax")
          for step in (0, 4) for layer in (1, 2) for head in (0, 1, -1)),
        Row("r", "m@a", "", 0, "residual", 0, -1, "anisotropy", nan, reason="all states are equal"),
        Row("r", "m@a", "", 4, "residual", 0, -1, "anisotropy", 0.5),
        Row("r", "m@a", "stack=encoder", 0, "key", 3, 1, "drift", nan, reason="no reference"),
        Row("r", "", "", 0, "output", 2, -1, "mean_norm", 1.0, reason="fewer than 8 windows"),
    ]  # fmt: skip
    missing = not_measured(pd.DataFrame(rows, columns=COLUMNS), ["entropy", "kurtosis"])
    assert missing == {
        "entropy at attention, layers 1, 2 of m@a": "no softmax",
        "anisotropy at residual, layer 0, step 0 of m@a": "all states are equal",
        "drift at key, layer 3, head 1, (stack=encoder) of m@a": "no reference",
        "kurtosis": "no part of what was measured has it",
    }
