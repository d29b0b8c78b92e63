"""What the page draws of chosen runs: their parts, and the arms, words and colours of the report. No torch here."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict

import pandas as pd

from dynamics.record import parse_condition
from dynamics.report.arms import HISTORY, Arm, ArmEntry, arms_of, entries, flatten, settings_of
from dynamics.report.names import APART, AUDIT, CORE, QUALITY, Words, site, words
from dynamics.report.plot.style import DARK, DEPTH, MAGNITUDE, SIGNED, looks
from dynamics.report.plot.values import NEGATIVE, SPAN
from dynamics.run_info import AuditInfo, ConeInfo, Facts, ProbeInfo, RunInfo
from dynamics.watch.store import Store, WatchedRun

SCALES = {
    **{"magnitude": MAGNITUDE, "signed": SIGNED, "depth": DEPTH},
    **{"depth_dark": [(place, DARK[colour]) for place, colour in DEPTH], "span": SPAN, "negative": NEGATIVE},
}
ASIDE = ("metrics", "descriptions", "versions.", "command")  # settings that would say the same again, or nothing


def view(store: Store, keys: Sequence[str], since: int = 0) -> Facts:
    """Return the parts of runs that changed after version `since`, as JSON can hold them, and how to draw them.

    A run that has lost a part since then is `whole`: its parts take the place of those that the page has. Keys of runs
    that there are not are left out.
    """
    with store.lock:
        runs = _chosen(store, keys)
        return {
            "version": max((run.version for run in runs.values()), default=0),
            "runs": {key: _run(run, since) | _about(run) for key, run in runs.items()},
            "arms": _arms(runs),
            "words": _words(runs.values()),
            "scales": SCALES,
            "history": [key for key in HISTORY if key != "seed"],
        }


def heads(store: Store, keys: Sequence[str], since: int = 0) -> Facts:
    """Return the values of every head in the parts that changed after version `since`."""
    with store.lock:
        runs = _chosen(store, keys)
        version = max((run.version for run in runs.values()), default=0)
        return {"version": version, "runs": {key: _run(run, since, heads=True) for key, run in runs.items()}}


def everything(store: Store, keys: Sequence[str], rows: list[Facts]) -> Facts:
    """Return all that a page in one file needs: the rows of the list, and everything of the chosen runs."""
    return {"at": time.time(), "rows": rows, "view": view(store, keys), "heads": heads(store, keys)}


def _chosen(store: Store, keys: Sequence[str]) -> dict[str, WatchedRun]:
    runs = store.runs()
    return {key: runs[key] for key in dict.fromkeys(keys) if key in runs}


def _run(run: WatchedRun, since: int, heads: bool = False) -> Facts:
    is_whole = since < run.cut
    names = [*run.of_kind("geometry"), *([] if heads else run.of_kind("curves"))]
    new = [name for name in reversed(names) if is_whole or run.changed[name] > since]
    return {"whole": is_whole, "parts": {name: run.part(name, heads).groups for name in new}}


def _about(run: WatchedRun) -> Facts:
    """Return the settings of a run as text, and what is wrong with its files."""
    for name in run.files:
        run.part(name)
    flat = flatten(settings_of(run.info))
    said = {key: str(value) for key, value in flat.items() if value not in (None, "") and not key.startswith(ASIDE)}
    return {"settings": said, "problems": run.problems()}


def _arms(runs: Mapping[str, WatchedRun]) -> list[Facts]:
    """Return the arms of the report, each with its look and its members.

    A member is a run, subject, condition and seed, and its place on what the arm is followed along, if that is no step.
    """
    frames = {key: _places(run) for key, run in runs.items()}
    try:
        owners = _owners(frames, {key: run.info for key, run in runs.items()})
    except Exception:  # of a foreign run.json: anything; then every run is what its rows say
        owners = _owners(frames, {key: RunInfo.from_dict({}) for key in runs})
    arms: dict[str, Facts] = {}
    styles = looks(list(dict.fromkeys(arm.name for arm in owners.values())))
    for entry, arm in owners.items():
        look = asdict(styles[arm.name]) | {"dark": DARK[styles[arm.name].colour]}
        about = {"name": arm.name, "about": arm.about, "along": arm.along, "look": look}
        members = arms.setdefault(arm.name, {**about, "members": []})["members"]
        members.append([entry.run, entry.subject, entry.condition, entry.seed, entry.at])
    return list(arms.values())


def _owners(frames: Mapping[str, pd.DataFrame], infos: Mapping[str, RunInfo]) -> dict[ArmEntry, Arm]:
    members = [entry for key, frame in frames.items() if len(frame) for entry in entries(key, frame, infos[key])]
    owners = arms_of(members, infos)

    def order(entry: ArmEntry) -> int:
        """Order what has no arms in the report after what has, the simplest conditions first."""
        is_compared = not isinstance(infos[entry.run], ProbeInfo | ConeInfo | AuditInfo)
        return 0 if is_compared else 1 + len(parse_condition(entry.condition))

    return {entry: owners[entry] for entry in sorted(owners, key=order)}


def _places(run: WatchedRun) -> pd.DataFrame:
    """Return the subjects, conditions, sites and steps of the rows that a report has arms for, in its order."""
    names = ("subject", "condition", "step", "site")
    aside = () if isinstance(run.info, AuditInfo) else AUDIT
    groups = (group for name in run.files for group in run.part(name).groups if group["metric"] not in aside)
    places = {tuple(group.get(name, 0) for name in names) for group in groups}
    return pd.DataFrame(sorted(places), columns=list(names))


def _words(runs: Iterable[WatchedRun]) -> dict[str, Facts]:
    """Return the words of every quantity, by `site/metric`; those of the core have their place in it."""
    found: dict[tuple[str, str], Words] = {}
    for run in runs:
        for group in (group for name in run.files for group in run.part(name).groups):
            key = (group["site"], group["metric"])
            if key not in found:
                found[key] = words(group["metric"], run.info.descriptions)
    return {
        f"{place}/{metric}": {
            **{"title": meaning.title, "unit": meaning.unit, "meaning": meaning.meaning, "site": site(place)},
            **{"wide": meaning.wide, "signed": meaning.signed},
            "core": _place_in_core(place, metric),
        }
        for (place, metric), meaning in found.items()
    }


def _place_in_core(place: str, metric: str) -> int | None:
    """Return where a quantity stands among those to see first, of its kind; None where it does not."""
    if place in APART:
        return QUALITY.index(metric) if metric in QUALITY else None
    return CORE.index((place, metric)) if (place, metric) in CORE else None
