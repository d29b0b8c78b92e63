"""Verdicts on claims as a table for the terminal and as JSON. No torch here."""

import json
from collections.abc import Sequence

from rich.table import Table as Grid

from dynamics.claims.judge import Judgement
from dynamics.claims.statistics import FAMILY, LEVEL
from dynamics.report.names import DASH, estimate

COLOURS = {"supported": "green", "contradicted": "red", "inconclusive": "yellow", "not measurable": "dim"}


def table(judgements: Sequence[Judgement], notes: Sequence[str] = ()) -> Grid:
    """Return one row a claim: verdict, effect with its interval, units, and what must be known beside it."""
    grid = Grid(caption=" ".join((caption(judgements), *notes)), caption_justify="left", title_justify="left")
    for name in ("claim", "verdict", "effect", "n"):
        grid.add_column(name, no_wrap=name in ("claim", "verdict"))
    grid.add_column("statement", ratio=1)
    for one in judgements:
        shown = one.claim.statement + (f" [dim]{_escaped(one.reason)}[/dim]" if one.reason else "")
        colour = COLOURS[one.verdict]
        grid.add_row(one.claim.id, f"[{colour}]{one.verdict}[/{colour}]", effect(one), count(one), shown)
    return grid


def _escaped(text: str) -> str:
    return text.replace("[", r"\[")


def effect(one: Judgement) -> str:
    """Return the effect that stands for a claim with its interval, a dash where there is none."""
    found = one.main.outcome if one.main is not None and not one.missing else None
    return DASH if found is None else estimate({"value": found.effect, "low": found.low, "high": found.high})


def count(one: Judgement) -> str:
    """Return how many units are behind a verdict, and what they are; a dash where there are none."""
    found = one.main.outcome if one.main is not None and not one.missing else None
    return DASH if found is None else f"{found.n} {one.population}"


def caption(judgements: Sequence[Judgement]) -> str:
    """Return how the numbers are to be read, in sentences."""
    tests = sum((not one.missing) + (one.other is not None) for one in judgements)
    return (
        f"Effect with its 95 % interval over seeds or models. Verdicts: p < {LEVEL:g} after correction for {tests} "
        f"tests ({FAMILY}). Statements, rules and thresholds: docs/claims.md."
    )


def as_json(judgements: Sequence[Judgement]) -> str:
    """Return the verdicts as a JSON list, an object for each claim."""
    return json.dumps([one.to_dict() for one in judgements], indent=2, allow_nan=False) + "\n"
