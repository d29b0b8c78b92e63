"""The figures of the page for notebooks: of runs by name or path, or of rows as `dynamics.record.read` returns them.

Each function returns a plotly figure; `fig.show()` draws it and `fig.write_html` saves it. No torch here.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.errors import InputError
from dynamics.report import tables
from dynamics.report.sections import curves, geometry, glance
from dynamics.report.study import Study, load, of_rows

Source: TypeAlias = str | Path | Sequence[str | Path] | pd.DataFrame
"""A run or several, by name or path (`NAME=RUN` to call one NAME), or rows."""


def quantities(source: Source) -> list[tuple[str, str]]:
    """Return site and metric of every quantity that can be drawn, the core ones first."""
    return _pairs(_study(source))


def over_depth(source: Source, metric: str = "anisotropy", site: str = "residual") -> go.Figure:
    """Return the last profile of a quantity over the layers, a line for each arm."""
    study, along = _chosen(source, site, metric)
    return glance.over_depth(study, [glance.panel_of(study, site, metric, along)], 1).plot


def through_training(source: Source, metric: str = "anisotropy", site: str = "residual") -> go.Figure:
    """Return the mean over the layers 1..L of a quantity along the steps, a line for each arm."""
    study, along = _chosen(source, site, metric)
    panel = replace(glance.panel_of(study, site, metric, along), along=along)
    return glance.through_training(study, [panel], 1).plot


def layer_by_layer(source: Source, metric: str = "anisotropy", site: str = "residual") -> go.Figure:
    """Return a quantity over layers and steps: profiles, lines and maps, a column for each arm."""
    study, along = _chosen(source, site, metric)
    return geometry.figure(study, (along, site, metric)).plot


def head_by_head(source: Source, metric: str = "qk_alignment", site: str = "attention") -> go.Figure:
    """Return maps of a quantity, heads by steps, a row for each layer and a column for each arm.

    Raises:
        InputError: it was not measured head by head.
    """
    study, along = _chosen(source, site, metric)
    detail = geometry.figure(study, (along, site, metric)).detail
    if detail is None:
        raise InputError(f"{metric} at {site} was not measured head by head.")
    return detail.plot


def learning_curve(source: Source, metric: str = "") -> go.Figure:
    """Return a learning curve (that of the quality of the model where no metric is named), a line for each arm."""
    study = _study(source)
    known = tables.curve_metrics(study.rows)
    if not known or metric not in ("", *known):
        raise InputError(f"there is no curve of {metric or 'anything'}: there are {', '.join(known) or 'none'}.")
    return curves.figure(study, metric or known[0]).plot


def _study(source: Source) -> Study:
    if isinstance(source, pd.DataFrame):
        return of_rows(source)
    return load([source] if isinstance(source, str | Path) else source)


def _pairs(study: Study) -> list[tuple[str, str]]:
    finite = study.rows[np.isfinite(study.rows["value"])]
    return list(dict.fromkeys((site, metric) for _, site, metric in tables.quantities(finite)))


def _chosen(source: Source, site: str, metric: str) -> tuple[Study, str]:
    """Return the study, and what the quantity is followed along."""
    study = _study(source)
    along = next((along for along, *pair in tables.quantities(study.rows) if pair == [site, metric]), "")
    if (site, metric) not in (pairs := _pairs(study)):
        known = ", ".join(f"{name} at {place}" for place, name in pairs[:8]) or "none"
        raise InputError(f"no {metric} at {site} was measured: there are {known} (`quantities` returns all).")
    return study, along
