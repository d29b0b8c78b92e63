"""One self-contained HTML page: `write(runs, out)`."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics import files
from dynamics.errors import InputError
from dynamics.report import figures, origin, summary, tables
from dynamics.report.figures import Looks, Panel
from dynamics.report.names import CORE, LAYERS, capital, heading, site, words
from dynamics.report.plot.style import SOFT, TEMPLATE, looks, plain
from dynamics.report.sections import cone, cone_runs, histograms, probe, probe_designs, scan
from dynamics.report.sections import regularizers as shaping
from dynamics.report.study import Study, load

HEADING = "Geometry through training"
COLUMNS = 6
"""Arms that stand side by side; more are laid over one another."""


@dataclass(frozen=True)
class Figure:
    """A figure on the page: what it tells, its numbers in words, how they were made, and its detail."""

    title: str
    figure: go.Figure
    meaning: str = ""
    reading: str = ""
    caption: str = ""
    columns: int = 4
    detail: "Figure | None" = None
    open: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """The figure as plain JSON, without the template, which the page has once."""
        spec = self.figure.to_plotly_json()
        return light({**spec, "layout": {k: v for k, v in spec["layout"].items() if k != "template"}})

    @property
    def alt(self) -> str:
        """What the figure says, for those who do not see it."""
        return " ".join(part for part in (f"{self.title}.", self.meaning, self.reading) if part)


@dataclass(frozen=True)
class Section:
    """A run of the cone on the page: figures and whether they wait for a click, the cards between them."""

    run: str
    above: list[tuple[Figure, bool]]
    cards: list[cone_runs.Card]
    below: list[tuple[Figure, bool]]
    settings: origin.Table

    @classmethod
    def of(cls, run: cone_runs.Cone) -> "Section":
        above, below = ([(Figure(*one[:5]), one.folded) for one in made(run)] for made in (cone.drawn, cone.compared))
        return cls(run.run, above, cone_runs.cards(run), below, cone_runs.settings(run))


def write(runs: Sequence[str | Path], out: Path) -> Path:
    """Write the report on `runs` (names or paths) to the file `out`; gives `out` back.

    Raises:
        InputError: a run is missing or has no rows, or `out` cannot be written. Nothing is left half written.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name a file in it, for example {out / 'report.html'}.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; make it first.")
    html = page(load(runs))
    try:
        files.write_atomically(out, lambda file: file.write(html.encode()))
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name a file elsewhere.") from error
    return out


def page(study: Study) -> str:
    """The page as text."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from plotly.offline import get_plotlyjs

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    study, designs = probe_designs.split(study)
    study, cones = cone_runs.split(study)
    look = looks([arm.name for arm in study.arms])
    core, more = _geometry(study, look)
    more += _histograms(study, look)
    scanned = [Figure(*one) for one in scan.drawn(study)]
    swept = shaping.sweeps(study)
    heading = "Geometry of models" if all(_is_scan(told) for told in study.runs.values()) else HEADING
    if designs and not study.arms:
        heading = "Untrained blocks"
    if cones and not study.arms and not designs:
        heading = "Inside the cone"
    return environment.get_template("page.html").render(
        title=f"{heading}: {'; '.join([*look, *(one.name for one in designs), *(one.run for one in cones)])}",
        heading=heading,
        designs=designs,
        probed=[(Figure(*one[:5]), one.folded) for one in probe.drawn(designs)],
        probe_settings=origin.probed(study.runs),
        scanned=scanned,
        shaped=[Figure(*one[:5]) for one in shaping.drawn(swept)],
        effects=[(sweep.name, shaping.table(sweep)) for sweep in swept],
        cones=[Section.of(run) for run in cones],
        arms=[(arm, look[arm.name]) for arm in study.arms],
        notes=summary.notes(study),
        numbers=summary.key_numbers(study),
        curves=_curves(study, look),
        glance=_glance(study, look),
        core=core,
        more=more,
        settings=origin.settings(study),
        history=origin.history(study),
        cost=origin.cost(study),
        plotly=get_plotlyjs(),
        template=light(TEMPLATE.to_plotly_json()),
    )


def _is_scan(told: dict[str, Any]) -> bool:
    return told.get("kind") == "scan"


def light(value: Any) -> Any:
    """A figure as plain JSON: five significant digits, null where there is no finite number.

    >>> light({"y": np.array([0.1234567, np.nan]), "x": (1, 2)})
    {'y': [0.12346, None], 'x': [1, 2]}
    """
    if isinstance(value, dict):
        return {key: light(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [light(inner) for inner in (value.tolist() if isinstance(value, np.ndarray) else value)]
    if isinstance(value, float | np.floating):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def _present(look: Looks, table: pd.DataFrame) -> Looks:
    """The arms that have rows in a frame, as they look on the whole page."""
    return {name: how for name, how in look.items() if name in set(table["arm"])}


def _curves(study: Study, look: Looks) -> list[Figure]:
    made = []
    for metric in tables.curve_metrics(study.rows):
        table = tables.curves(study.rows, metric)
        shown = _present(look, table)
        panels: dict[str, list[str]] = {}
        for arm in study.arms:
            if arm.name in shown:
                panels.setdefault(summary.objective(arm), []).append(arm.name)
        trained = (table["site"] == "train").any()
        caption = (
            "Log axis"
            + ("; step 0 (before any update) is set apart at its left end" if (table["at"] == 0).any() else ""),
            "Lines with markers: validation"
            + ("; broad faint lines: training, averaged within log-spaced bins." if trained else ""),
            "Each objective has a panel and an axis of its own: values on masked characters do not compare "
            "with values on every character, nor those of one task with another's."
            if len(panels) > 1
            else "",
            "" if (table["site"] == "validation").any() else "no validation was run",
            summary.intervals(table[table["site"] == "validation"], "bands"),
        )
        made.append(
            Figure(
                capital(words(metric).axis),
                figures.curves(table, metric, panels, shown, _marks(study, metric)),
                reading=summary.last_validation(table, list(shown)),
                caption=summary.join(caption),
            )
        )
    return made


def _marks(study: Study, metric: str) -> dict[str, float]:
    """What to compare the bits of a character with: gzip, where all arms share their text."""
    told = [arm.settings.get("data") for arm in study.arms]
    found = {data.get("gzip_bits_per_character") for data in told if isinstance(data, dict)}
    if metric != "bits_per_character" or len(found) != 1 or not isinstance(level := found.pop(), int | float):
        return {}
    return {"gzip, same text": float(level)}


def _glance(study: Study, look: Looks) -> list[Figure]:
    """Every core quantity in two figures: over depth at the end, and through training."""
    known = tables.quantities(study.rows)
    profiles, along = [], []
    for position, place, metric in [q for q in known if q[1:] in CORE] or known[: len(CORE)]:
        table = tables.without_heads(tables.geometry(study.rows, place, metric, position))
        title = f"<b>{plain(words(metric).title)}</b><br><span style='color:{SOFT}'>{plain(site(place))}</span>"
        if np.isfinite(table["value"]).any():
            profiles += [Panel(title, metric, table)] * (table["layer"].nunique() > 1)
            along += [Panel(title, metric, table, position)] * (table["at"].nunique() > 1)
    made = []
    if profiles:
        made.append(
            Figure(
                "Over depth, at the end",
                figures.grid(profiles, look),
                "The last measured profile over the layers.",
                caption=summary.intervals(pd.concat(panel.table for panel in profiles), "bars"),
            )
        )
    if along:
        caption = "Mean over the layers 1..L; log axis, step 0 (before any update) set apart at its left end."
        made.append(Figure("Through training", figures.grid(along, look), caption=caption))
    return made


def _histograms(study: Study, look: Looks) -> list[Figure]:
    made = []
    for along, place, name in histograms.found(study.arrays):
        table, edges = histograms.table(study.arrays, place, name, along)
        shown = _present(look, table)
        figure = histograms.figure(table, edges, name, shown, along)
        caption = "All heads of a layer together, seeds pooled. Colour: share of the values that fall into a bin, on a "
        caption += "square root scale; blank: none. Bins are drawn equally high; the outermost hold what lies beyond."
        made.append(Figure(f"Histogram of {name.replace('_', ' ')} ({site(place)})", figure, caption=caption))
    return made


def _geometry(study: Study, look: Looks) -> tuple[list[Figure], list[Figure]]:
    """Figures of every quantity: those of the core, and the rest."""
    core, more, small = [], [], []
    known = tables.quantities(study.rows)
    first = [q for q in known if q[1:] in CORE] or known[:6]
    for quantity in known:
        along, place, metric = quantity
        rows = tables.geometry(study.rows, place, metric, along)
        table, shown = tables.without_heads(rows), _present(look, rows)
        if not np.isfinite(rows["value"]).any():
            continue
        title = heading(place, metric) + ("" if along == "step" else f", along {along}")
        deep, long = table["layer"].nunique() > 1, table["at"].nunique() > 1
        if not (deep and long and len(shown) <= COLUMNS):
            name = f"<b>{plain(words(metric).title)}</b>"
            small += [(place, metric, Panel(name, metric, table, along))] * long
            small += [(place, metric, Panel(name, metric, table))] * (deep or not long)
            continue
        made = Figure(
            title,
            figures.geometry(table, metric, shown, along),
            words(metric).meaning,
            summary.reading(table, list(shown), along),
            summary.caption(study, table, place, metric),
            len(shown) + 1,
        )
        by_head = rows[rows["head"] >= 0]
        if by_head["head"].nunique() > 1:
            detail = Figure(
                f"{title}, head by head",
                figures.heads(by_head, metric, shown, along),
                words(metric).meaning,
                caption=summary.caption(study, by_head, place, metric),
                columns=len(shown),
                open=quantity in first and words(metric).signed,
            )
            made = replace(made, detail=detail)
        (core if quantity in first else more).append(made)
    return core, more + _small(study, small, look)


def _small(study: Study, quantities: Sequence[tuple[str, str, Panel]], look: Looks) -> list[Figure]:
    """Quantities of one layer or position, or of too many arms for columns, share a figure for each site."""
    made = []
    for place in dict.fromkeys(place for place, _, _ in quantities):
        mine = [(metric, panel) for where, metric, panel in quantities if where == place]
        tables_of = {metric: panel.table for metric, panel in mine}
        parts = [f"{words(m).title}: {words(m).estimator or m}, {summary.points(t)}" for m, t in tables_of.items()]
        shown = summary.intervals(pd.concat(tables_of.values()), "bars and bands")
        made.append(
            Figure(
                capital(site(place)),
                figures.grid([panel for _, panel in mine], look),
                caption=summary.join([*parts, LAYERS.get(place, ""), shown]),
            )
        )
    return made
