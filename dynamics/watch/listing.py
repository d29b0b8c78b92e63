"""The list of runs: state, settings, progress, newest numbers and the cost of measuring of each. No torch here."""

import math
import time
from typing import Any

from dynamics.errors import in_words
from dynamics.lineage import fork_of
from dynamics.lock import is_abandoned
from dynamics.report.names import CORE, QUALITY, number, words
from dynamics.run_info import Facts, FitInfo, ModelsInfo, RunInfo, SweepInfo
from dynamics.watch.store import Store, WatchedRun

STEPS_A_WRITE = 50  # about the most after which training writes its curves
LEFT_SECONDS, IDLE_SECONDS, LOADING_SECONDS = 15, 60, 600  # without a write, until a run counts as stalled
COSTS = ("step_seconds", "measure_seconds")
OLDER_PARTS = 30  # parts of the curves that are searched for the newest validation
SETTINGS = (
    *("label", "task", "architecture", "layers", "width", "heads", "parameters", "context", "batch_size"),
    *("learning_rate", "precision", "seed", "beta", "bias", "norm", "depth"),
)


class Listing:
    """The rows of the list; what a run's files say is worked out again when they have changed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._facts: dict[str, tuple[int, Facts]] = {}

    def rows(self) -> list[Facts]:
        """Return a row for every run, as JSON can hold it."""
        with self._store.lock:
            runs = self._store.runs()
            rows = {key: self._row(run) for key, run in runs.items()}
            for key, run in runs.items():
                if isinstance(run.info, SweepInfo):
                    done = sum(rows[name]["state"] == "done" for name in run.info.runs if name in rows)
                    rows[key] |= {"step": done, "last": len(run.info.runs), "unit": "run"}
            return list(rows.values())

    def _row(self, run: WatchedRun) -> Facts:
        version, facts = self._facts.get(run.key, (0, {}))
        if version != run.version:
            try:
                facts = _facts(run)
            except Exception as error:  # of a foreign run.json or record: anything
                facts = {"key": run.key, "problem": f"the run cannot be understood ({in_words(error)})"}
            self._facts[run.key] = run.version, facts
        return {**facts, "version": run.version, **_state(run, facts)}


def _facts(run: WatchedRun) -> Facts:
    """Return what the files of a run say in short; of the record, the newest parts are read."""
    geometry, (curves, newest_step) = _newest_geometry(run), _newest_curves(run)
    measured = max((run.files[name].step for name in run.of_kind("geometry")), default=0)
    step, is_fit = max(newest_step, measured), isinstance(run.info, FitInfo)
    last = run.info.max_steps if isinstance(run.info, FitInfo) and (run.info.max_steps or 0) > 0 else None
    step_seconds, measure_seconds = (_cost([*geometry, *curves], name) for name in COSTS)
    measuring = (measure_seconds or 0.0) * len(run.of_kind("geometry"))
    fork = fork_of(run.info)
    training = (step_seconds or 0.0) * max(0, step - (fork["step"] if fork else 0))
    left = max(last - step, 0) * (step_seconds or 0.0) * (1 + measuring / training) if last and training else None
    problems = run.problems()
    return {
        "key": run.key,
        "kind": run.info.kind,
        "created": run.info.created,
        "step": step if is_fit else len(run.of_kind("geometry")),
        "unit": "step" if is_fit else "part",
        "last": last,
        "left": left,  # seconds that it needs from its last write on, about
        "settings": settings(run.info),
        "numbers": _curve_numbers(run, curves) + _geometry_numbers(run, geometry),
        "step_seconds": step_seconds,
        "measure_seconds": measure_seconds,
        "share": measuring / (measuring + training) if training else None,  # of the run's time spent measuring, about
        "problem": problems[0] + (f" And {len(problems) - 1} more." if len(problems) > 1 else "") if problems else "",
    }


def _state(run: WatchedRun, facts: Facts) -> Facts:
    """Return how a run is: `running`, `stalled`, `done`, `stopped`, `interrupted`, `failed`, or `unknown`."""
    written = run.written
    status, says = run.info.status or "unknown", ""
    if status == "failed":
        says = run.info.error
    elif status == "stopped":
        says = "a limit of time ended it"
    elif status == "running":
        is_left, idle = is_abandoned(run.folder), time.time() - written
        usual = 3 * (STEPS_A_WRITE * (facts.get("step_seconds") or 0.0) + (facts.get("measure_seconds") or 0.0))
        limit = max(IDLE_SECONDS if isinstance(run.info, FitInfo) else LOADING_SECONDS, usual)
        if idle > (LEFT_SECONDS if is_left else limit):
            status = "stalled"
            says = "its process is gone" if is_left else "its process is there, but writes nothing"
    return {"state": status, "says": says, "written": written or None}


def settings(info: RunInfo) -> list[list[str]]:
    """Return the settings that tell runs from one another at a glance, as pairs of name and value; a label has none."""
    content = info.to_dict()
    pairs = [["" if key == "label" else key.replace("_", " "), content[key]] for key in SETTINGS if key in content]
    if isinstance(info, FitInfo) and "corpus" in info.data:
        pairs.append(["corpus", info.data["corpus"]])
    if isinstance(info, ModelsInfo) and info.subjects:
        names = list(info.subjects)
        pairs.append(["models", ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")])
    return [[name, _short(value)] for name, value in pairs]


def _short(value: Any, most: int = 80) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _newest_geometry(run: WatchedRun) -> list[Facts]:
    """Return what the newest part with geometry holds, of those that can be read."""
    return next((groups for name in run.of_kind("geometry")[:OLDER_PARTS] if (groups := run.part(name).groups)), [])


def _newest_curves(run: WatchedRun) -> tuple[list[Facts], int]:
    """Return the newest values of the curves, one group for each, and the newest step that they have."""
    found: dict[tuple[str, str], Facts] = {}
    for name in run.of_kind("curves")[:OLDER_PARTS]:
        for group in run.part(name).groups:
            found.setdefault((group["site"], group["metric"]), group)
        if {site for site, _ in found} >= {"train", "validation"}:
            break
    return list(found.values()), max((group["steps"][-1] for group in found.values()), default=0)


def _curve_numbers(run: WatchedRun, curves: list[Facts]) -> list[Facts]:
    """Return the newest loss or quality in training and in validation."""
    numbers = []
    for site in ("train", "validation", "test"):
        by_metric = {group["metric"]: group for group in curves if group["site"] == site}
        metric = next((name for name in (*QUALITY, "loss") if name in by_metric), None)
        if metric:
            group, meaning = by_metric[metric], words(metric, run.info.descriptions)
            place = {"train": "training", "test": "test split"}.get(site, site)
            name = meaning.unit if meaning.unit.startswith("bits") else meaning.title
            numbers.append(_named(f"{place} {name}", group["values"][-1], group["steps"][-1]))
    return numbers


def _geometry_numbers(run: WatchedRun, geometry: list[Facts]) -> list[Facts]:
    """Return means over the layers 1..L of the two quantities to know first; none where a layer has no value."""
    groups = sorted((g for g in geometry if g["site"] != "cost"), key=lambda group: len(group["condition"]))
    core = [group for quantity in CORE for group in groups if (group["site"], group["metric"]) == quantity]
    numbers = []
    for group in (core or groups)[:2]:
        pairs = list(zip(group["layers"], group["values"], strict=True))
        values = [value for layer, value in pairs if layer > 0 or len(pairs) == 1]
        mean = None if None in values or not values else math.fsum(values) / len(values)
        title = words(group["metric"], run.info.descriptions).title
        subject = " ".join(filter(None, (group["subject"], group["condition"])))
        numbers.append(_named(f"{title} ({_short(subject, 40)})" if subject else title, mean, group["step"]))
    return numbers


def _named(name: str, value: float | None, step: int) -> Facts:
    return {"name": name, "text": number(math.nan if value is None else value), "step": step}


def _cost(groups: list[Facts], metric: str) -> float | None:
    """Return the newest value of a cost, in seconds."""
    values = (group["values"][-1] for group in groups if (group["site"], group["metric"]) == ("cost", metric))
    return next((value for value in values if value is not None), None)
