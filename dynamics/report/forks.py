"""Forks on the page: their parents beside them, the point where they begin, and a mark there in every figure."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from dynamics.lineage import ancestors, fork_of, parent_of
from dynamics.report.blocks import Figure, PageBlock, Section
from dynamics.report.names import CURVES
from dynamics.report.plot.style import SOFT
from dynamics.run_info import RunInfo

NamedRun = tuple[Path, str]  # a run's folder, and what the page calls it; empty where it keeps its name


def with_parents(runs: Sequence[NamedRun]) -> list[NamedRun]:
    """Return runs, and before each fork the runs that it continues, as far as they are still there."""
    given, found = {folder for folder, _ in runs}, dict[NamedRun, None]()
    for folder, name in runs:
        past = [(parent.resolve(), "") for parent, _ in ancestors(folder)]
        found |= dict.fromkeys(entry for entry in reversed(past) if entry[0] not in given)
        found[folder, name] = None
    return list(found)


def joined(
    infos: Mapping[str, RunInfo], records: Mapping[str, pd.DataFrame], folders: Mapping[str, Path]
) -> dict[str, pd.DataFrame]:
    """Return the rows of runs; the learning curves of a fork begin with the values that its parent had at its step.

    Those of another objective, which are on another axis, stay away. The three mappings are by the name on the page,
    which may not be that of the folder.
    """
    found, names = dict(records), {folder: run for run, folder in folders.items()}
    for run, info in infos.items():
        if (fork := fork_of(info)) is None or (folder := parent_of(folders[run], fork)) is None:
            continue
        parent = names.get(folder.resolve(), "")  # without rows it is not on the page
        if not parent or infos[parent].to_dict().get("objective") != info.to_dict().get("objective"):
            continue
        rows, before = records[run], found[parent]
        known = set(rows.loc[rows["site"].isin(CURVES), "metric"])
        is_last = before["site"].isin(CURVES) & (before["step"] == fork["step"]) & before["metric"].isin(known)
        found[run] = pd.concat([before[is_last].assign(run=run), rows], ignore_index=True)
    return found


def marked(sections: Sequence[Section], infos: Mapping[str, RunInfo]) -> list[Section]:
    """Return sections whose figures have a dotted line in each panel along the steps where a fork begins."""
    steps = sorted({fork["step"] for info in infos.values() if (fork := fork_of(info))})
    if not steps:
        return list(sections)
    return [replace(section, blocks=[_marked(block, steps) for block in section.blocks]) for section in sections]


def _marked(block: PageBlock, steps: Sequence[int]) -> PageBlock:
    if not isinstance(block, Figure):
        return block
    detail = None if block.detail is None else _marked(block.detail, steps)
    assert detail is None or isinstance(detail, Figure)
    count = _mark(block.plot, steps)
    caption = f"{block.caption} Dotted upright: a fork begins.".strip() if count else block.caption
    return replace(block, detail=detail, caption=caption)


def _mark(figure: go.Figure, steps: Sequence[int]) -> int:
    """Draw the lines into the panels along the steps, which have a logarithmic axis; return how many."""
    count = 0
    for name, axis in figure.layout.to_plotly_json().items():
        if not name.startswith("xaxis") or axis.get("type") != "log" or axis.get("title", {}).get("text") != "step":
            continue
        low, high = axis["range"]
        place = {"xref": f"x{name[5:]}", "yref": f"y{name[5:]} domain", "y0": 0, "y1": 1, "layer": "below"}
        for step in steps:
            if low <= np.log10(step) <= high:
                line = {"color": SOFT, "width": 1.2, "dash": "dot"}
                figure.add_shape(type="line", x0=step, x1=step, line=line, **place)
                count += 1
    return count
