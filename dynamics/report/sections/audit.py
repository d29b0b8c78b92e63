"""The audit of checkpoints: which are suspect and why, and how far their weights are from one another."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dynamics.report.arms import Settings
from dynamics.report.blocks import Compared, Figure, PageBlock, Section, Table, TableRow, Text
from dynamics.report.names import DASH, number
from dynamics.report.plot import heat, lines
from dynamics.report.plot.canvas import Axes, Canvas
from dynamics.report.plot.style import ARMS, INK, SOFT, panel_title
from dynamics.report.plot.values import Values
from dynamics.report.study import Study

DETOUR = 2.2  # from which on `dynamics.experiments.audit.order` calls a checkpoint misplaced
ROWS = 30  # of a table that shows every checkpoint; a longer one shows suspects and what is beside them
SUSPECT = ARMS[1]

Verdicts = Mapping[str, Settings]  # facts of the checkpoints of one model, by subject, in the order of their steps


def applies(study: Study) -> bool:
    """Whether checkpoints were audited."""
    return bool(study.verdicts)


def section(study: Study) -> Section:
    """Return a verdict, a figure and a table for each model that was audited."""
    blocks: list[PageBlock] = []
    compared, findings = [], []
    for run, audited in study.verdicts.items():
        for model in dict.fromkeys(str(facts["model"]) for facts in audited.values()):
            verdicts = {subject: facts for subject, facts in audited.items() if facts["model"] == model}
            rows = study.rows_of(run, ("to", "stack"))
            rows = rows[(rows["site"] == "weight") & rows["subject"].isin([*verdicts]) & (rows["stack"] == "")]
            about = _about(verdicts)
            blocks += [Text(f"{model}: {about}", "h3")]
            findings.append(f"{model}: {about}.")
            blocks += [figure] if (figure := _figure(study, rows, verdicts)) else []
            blocks.append(_table(rows, verdicts))
            compared += [Compared(model, about, [run])] if study.runs[run].kind == "audit" else []
    note = "Suspect: equal to another checkpoint; or its weights do not lie where its step says; or step 0 is not "
    note += "untrained. What distances cannot tell: checkpoints between which nothing was trained, and a whole series "
    note += "in reverse."
    return Section("Audit of checkpoints", "audit", "Audit", [*blocks, Text(note, is_soft=True)], compared, findings)


def _about(verdicts: Verdicts) -> str:
    suspects = sum(bool(facts["suspect"]) for facts in verdicts.values())
    return f"{suspects or 'none'} of {len(verdicts)} checkpoints {'are' if suspects > 1 else 'is'} suspect"


def _values(rows: pd.DataFrame, metric: str, to: str = "") -> "pd.Series[float]":
    """Return the values of whole checkpoints, by subject."""
    chosen = rows[(rows["metric"] == metric) & (rows["to"] == to) & (rows["layer"] == -1)]
    return chosen.set_index("subject")["value"]


def _reference(rows: pd.DataFrame) -> str:
    """Return what distances are to, besides the checkpoint before: `main`, or the last one."""
    return next((str(to) for to in rows["to"].unique() if to in ("main", "last")), "main")


def _figure(study: Study, rows: pd.DataFrame, verdicts: Verdicts) -> Figure | None:
    measured = set(rows.loc[rows["metric"] == "weight_distance", "subject"])
    order = [subject for subject in verdicts if subject in measured]
    if not order:
        return None
    reference = _reference(rows)
    panels = [
        ("weight_distance", "previous", "distance to the one before", (-1,)),
        ("weight_distance", reference, f"distance to {reference}", ()),
        ("detour", "", "detour", (-1, 1)),
    ]
    canvas = Canvas.grid([panel_title(title) for _, _, title, _ in panels], columns=3, panel=250)
    facts = [verdicts[subject] for subject in order]
    steps = [str(one["revision"] if one["step"] is None else one["step"]) for one in facts]
    is_suspect = pd.Series([one["suspect"] for one in facts], order)
    for axes, (metric, to, _, others) in zip(canvas.panels, panels, strict=True):
        values, words = _values(rows, metric, to).reindex(order), study.words(metric)
        is_beside = pd.Series(False, order)
        for offset in others:
            is_beside |= ~is_suspect & is_suspect.shift(-offset, fill_value=False)
        scale = Values.of(words, values[values > 0])
        # Equal weights have no place on a logarithmic axis: they lie below all others.
        drawn = values.mask(values == 0, values[values > 0].min() / 3) if scale.log else values
        _points(axes, pd.DataFrame({"step": steps, "true": values, "value": drawn}), is_suspect, is_beside)
        axes.y(**scale.axis(), title={"text": words.unit + (" (log)" if scale.log else "")})
        at = heat.spread(len(order), 6)
        axes.x(title={"text": "step"}, tickvals=at, ticktext=[steps[i] for i in at])
        if metric == "detour":
            lines.dotted(axes, [0, len(order) - 1], [DETOUR, DETOUR])
    canvas.set(showlegend=True)
    meaning = "Along training, distances to the one before vary smoothly, those to the end fall, and each checkpoint "
    meaning += "lies between its neighbours. Steps are equally spaced."
    caption = "Frobenius norm of the difference of all weights over that of the other checkpoint; 0 is drawn below all "
    caption += "others. Detour: the way from the checkpoint before through this one to the next, over the way past it: "
    caption += "1 on a straight line, 1.4 in a random walk, 2 at most where training only wanders; suspect from "
    caption += f"{DETOUR} (dotted) on."
    return Figure("Distances of weights", canvas.figure(), meaning, "", caption, 3, data=rows)


def _points(axes: Axes, points: pd.DataFrame, is_suspect: "pd.Series[bool]", is_beside: "pd.Series[bool]") -> None:
    """Draw a line through what is in order; suspects, and those whose value is to a suspect, as points of their own."""
    text = {"mode": "markers+text", "textposition": "top center", "textfont": {"color": SUSPECT, "size": 11}}
    points = points.assign(place=range(len(points)))
    kinds: dict[str, tuple[pd.Series[bool], Settings, Settings]] = {
        "in order": (~is_suspect & ~is_beside, {"color": INK, "size": 4}, {"line": {"color": INK, "width": 1.6}}),
        "measured to a suspect": (is_beside, {"color": SOFT, "size": 7, "symbol": "circle-open"}, {"mode": "markers"}),
        "suspect": (is_suspect, {"color": SUSPECT, "size": 10, "symbol": "x"}, text),
    }
    for name, (chosen, marker, look) in kinds.items():
        part = points[chosen & np.isfinite(points["value"])]
        if len(part):
            label = {"text": _runs(part["place"], part["step"])} if look is text else {}
            legend = {"name": name, "legendgroup": name, "showlegend": axes.col == 0, "marker": marker}
            spoken = {"customdata": part[["step", "true"]].to_numpy()}
            hover = "step %{customdata[0]}: %{customdata[1]:.4g}"
            lines.line(axes, part["place"], part["value"], hover, **spoken, **legend, **look, **label)


def _runs(places: "pd.Series[int]", steps: "pd.Series[str]") -> list[str]:
    """Return a label for the first of each run of neighbours, with both ends; the others have none."""
    run = (places.diff() != 1).cumsum()
    first, last = steps.groupby(run).transform("first"), steps.groupby(run).transform("last")
    return [
        "" if step != start else start if start == end else f"{start}\N{EN DASH}{end}"
        for step, start, end in zip(steps, first, last, strict=True)
    ]


def _table(rows: pd.DataFrame, verdicts: Verdicts) -> Table:
    reference, subjects = _reference(rows), [*verdicts]
    suspects = [i for i, facts in enumerate(verdicts.values()) if facts["suspect"]]
    shown = [*range(len(subjects))]
    if len(subjects) > ROWS:
        shown = sorted({0, len(subjects) - 1, *(k for i in suspects for k in (i - 1, i, i + 1))} & {*shown})
    is_part = len(shown) < len(subjects)
    title = f"Suspects and their neighbours ({len(shown)} of {len(subjects)})" if is_part else "Checkpoints"
    columns = ("verdict", "equal to", "distance to the one before", f"distance to {reference}", "SHA-256 of weights")
    before, end = _values(rows, "weight_distance", "previous"), _values(rows, "weight_distance", reference)
    table = []
    for subject in (subjects[i] for i in shown):
        facts = verdicts[subject]
        equal = ", ".join(name + f" ({how})" * (how != "exact") for name, how in facts["equal"].items())
        words = "; ".join([f"suspect: {'; '.join(facts['reasons'])}"] * facts["suspect"] + facts["notes"])
        distances = (number(values.get(subject, np.nan)) for values in (before, end))
        cells = (words or "in order", equal or DASH, *distances, facts["sha256"][:12])
        table.append(TableRow(facts["revision"], cells, facts["suspect"]))
    return Table(columns, table, title)
