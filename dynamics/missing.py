"""What a record has no value for, and why. No torch here."""

from collections.abc import Iterable, Sequence

import pandas as pd


def not_measured(frame: pd.DataFrame, names: Iterable[str] = ()) -> dict[str, str]:
    """Return what has no value in the rows of a run, and why: `entropy at attention, layers 1, 2 of gpt2@main`.

    `names` are metrics that were asked for: those without any row are missing too.
    """
    rows = frame[frame["value"].isna() & (frame["reason"] != "")]
    reasons: dict[str, str] = {}
    keys = ["metric", "site", "subject", "condition", "reason"]
    for (metric, site, subject, condition_, reason), group in rows.groupby(keys, sort=False):
        same = frame[(frame["metric"] == metric) & (frame["site"] == site) & (frame["subject"] == subject)]
        heads, steps = sorted(set(group["head"])), sorted(set(group["step"]))
        parts = [
            f"{metric} at {site}",
            _listed("layer", sorted(set(group["layer"]) - {-1})),
            "" if -1 in heads else _listed("head", heads),
            "" if len(steps) == same["step"].nunique() else _listed("step", steps),
            f"({condition_})" if condition_ else "",
        ]
        reasons[", ".join(filter(None, parts)) + (f" of {subject}" if subject else "")] = reason
    for name in sorted(set(names) - set(frame["metric"])):
        reasons[name] = "no part of what was measured has it"
    return reasons


def _listed(what: str, numbers: Sequence[int]) -> str:
    """Return numbers with their name, of many the first and the last.

    >>> _listed("layer", [3]), _listed("step", [1, 2, 4]), _listed("layer", range(12))
    ('layer 3', 'steps 1, 2, 4', '12 layers from 0 to 11')
    """
    if len(numbers) > 6:
        return f"{len(numbers)} {what}s from {numbers[0]} to {numbers[-1]}"
    return f"{what}{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}" if numbers else ""
