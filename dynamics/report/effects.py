"""How arms differ, with intervals: paired by seed where arms share seeds, for twins start from equal weights."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamics.report import summary, tables
from dynamics.report.arms import Arm, Settings, design, flatten
from dynamics.report.blocks import Table, TableRow
from dynamics.report.names import CORE, DASH, QUALITY, capital, estimate, number
from dynamics.report.study import Study

SPOKEN = 3  # quantities that have a sentence of their own; the others are in the table
NAMED = 4  # arms that a sentence names


class Effect(NamedTuple):
    """A difference with its 95 % interval, and what that is an interval of: `basis`, empty where there is none."""

    value: float
    low: float = np.nan
    high: float = np.nan
    basis: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the interval excludes no difference."""
        return bool(self.low > 0 or self.high < 0)

    @property
    def text(self) -> str:
        """Return the difference with its sign, its interval and, where this holds zero, what follows from it.

        >>> Effect(0.5, 0.4, 0.6).text, Effect(-0.1, -0.3, 0.1).text, Effect(0.1).text
        ('+0.500 [0.400, 0.600]', '−0.100 [−0.300, 0.100]: inconclusive', '+0.100')
        """
        text = ("+" if self.value > 0 else "") + estimate(self._asdict())
        return text + ("" if self.is_clear or not np.isfinite(self.low) else ": inconclusive")

    @property
    def words(self) -> str:
        """Return the difference in words.

        >>> Effect(-0.5, -0.6, -0.4).words, Effect(-0.1, -0.3, 0.1).words, Effect(0.1).words
        ('lower by 0.500 [0.400, 0.600]', 'inconclusive, −0.100 [−0.300, 0.100]', '+0.100 without an interval')
        """
        if not np.isfinite(self.low):
            return f"{self.text} without an interval"
        if not self.is_clear:
            return f"inconclusive, {self.text.partition(':')[0]}"
        size = Effect(-self.value, -self.high, -self.low) if self.value < 0 else self
        return f"{'lower' if self.value < 0 else 'higher'} by {estimate(size._asdict())}"


@dataclass(frozen=True)
class ArmComparison:
    """One quantity of several arms: the value of each, and how each but the first differs from its reference."""

    title: str
    place: str  # where the values are taken: `at step 200`
    values: Mapping[str, str]
    effects: Mapping[str, Effect]
    references: Mapping[str, str] = field(default_factory=dict)  # what each effect is the difference from


def difference(first: pd.DataFrame, second: pd.DataFrame) -> Effect:
    """Return the second less the first: frames with the columns `seed value low high`, a row for each seed.

    With `tables.SEEDS` seeds in common, the t interval of the differences within seeds; with as many in each that are
    not in common, Welch's interval; of single rows, both intervals of sampling error together; else none.
    """
    from scipy import stats

    one, two = (rows.dropna(subset="value").set_index("seed") for rows in (first, second))
    shared = one.index.intersection(two.index)
    if len(shared) >= tables.SEEDS:
        changes = (two.loc[shared, "value"] - one.loc[shared, "value"]).to_numpy()
        half = stats.t.ppf(0.975, len(shared) - 1) * stats.sem(changes)
        return Effect(changes.mean(), changes.mean() - half, changes.mean() + half, f"{len(shared)} seeds, paired")
    value = float(two["value"].mean() - one["value"].mean())
    if min(len(one), len(two)) >= tables.SEEDS:
        interval = stats.ttest_ind(two["value"], one["value"], equal_var=False).confidence_interval()
        return Effect(value, float(interval.low), float(interval.high), "seeds, not paired")
    if len(one) == len(two) == 1:
        (a,), (b,) = one.to_dict("records"), two.to_dict("records")
        low = value - float(np.hypot(b["value"] - b["low"], a["high"] - a["value"]))
        high = value + float(np.hypot(b["high"] - b["value"], a["value"] - a["low"]))
        return Effect(value, low, high, "sampling error" if np.isfinite([low, high]).all() else "")
    return Effect(value)


def references(study: Study) -> dict[str, str]:
    """Return what each arm but the first is compared with: the earliest that differs in one setting, else the first."""
    designs = {arm.name: _design(arm) for arm in study.arms}
    names, found = study.arm_names, dict[str, str]()
    for before, name in enumerate(names[1:], start=1):
        twins = (other for other in names[:before] if len(_changed(designs[other], designs[name])) == 1)
        found[name] = next(twins, names[0])
    return found


def changed(one: Arm, other: Arm) -> Settings:
    """Return the settings that decide what an arm is and differ between two, with the values of `other`."""
    return _changed(_design(one), _design(other))


def _changed(one: Settings, other: Settings) -> Settings:
    return {key: other.get(key) for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def _design(arm: Arm) -> Settings:
    """Return the settings that decide what an arm is, flat; of an arm that was not trained there are none."""
    kept = {key: arm.settings.get(key) for key in ("regularizers", "context", "batch_size", "max_steps")}
    model = arm.settings.get("model") or {key: arm.settings.get(key) for key in ("objective", "is_causal")}
    flat = flatten(design({**kept, **(model if isinstance(model, dict) else {})}))
    return {key: value for key, value in flat.items() if value is not None and not key.startswith("_")}


def comparisons(study: Study) -> list[ArmComparison]:
    """Return how the arms differ in what models learn and in the core geometry, as far as several have it.

    Geometry is the mean over layers 1..L. Arms are compared at the last step that all of their seeds have reached.
    """
    return [one for table, metric, title in _quantities(study) if (one := _compared(study, table, metric, title))]


def changes(study: Study) -> list[ArmComparison]:
    """Return how the arms changed from the first step to the last, seed by seed."""
    found = []
    for table, metric, title in _quantities(study):
        first, last = tables.final(table, "min"), tables.final(table)
        moved = [arm for arm in study.arms if table.loc[table["arm"] == arm.name, "at"].nunique() > 1]
        values, effects = {}, {}
        for arm in moved:
            # The steps of a model share their windows: their intervals of sampling error are not independent.
            start, end = (_of(rows, arm).assign(low=np.nan) for rows in (first, last))
            values[arm.name] = f"{_mean(study, arm, metric, start)} → {_mean(study, arm, metric, end)}"
            effects[arm.name] = difference(start, end)
        if moved:
            found.append(ArmComparison(title, f"to {_place(table, last)}", values, effects))
    return found


def _quantities(study: Study) -> Iterator[tuple[pd.DataFrame, str, str]]:
    """Yield a row for each arm, seed and position that all its seeds have reached, of every quantity; metric, title."""
    for metric in (name for name in tables.curve_metrics(study.rows) if name in QUALITY):
        curve = tables.curves(study.rows, metric)
        curve = curve[curve["site"] == "validation"]
        words = study.words(metric)
        for covered in dict.fromkeys(map(summary.objective, study.arms)):  # different objectives do not compare
            names = [arm.name for arm in study.arms if summary.objective(arm) == covered]
            title = f"validation {words.unit or words.title}, {covered}"
            yield tables.reached(curve[curve["arm"].isin(names)]).assign(along="step"), metric, title
    for along, site, metric in tables.quantities(study.rows):
        if (site, metric) in CORE:
            table = tables.without_heads(tables.geometry(study.rows, site, metric, along))
            means = tables.reached(tables.over_layers(table))
            yield means.assign(along=along), metric, study.heading(site, metric)


def _compared(study: Study, table: pd.DataFrame, metric: str, title: str) -> ArmComparison | None:
    arms = [arm for arm in study.arms if np.isfinite(table.loc[table["arm"] == arm.name, "value"]).any()]
    if len(arms) < 2:
        return None
    table = table[table["arm"].isin([arm.name for arm in arms])]
    last = at_last(table)
    values = {arm.name: _mean(study, arm, metric, _of(last, arm)) for arm in arms}
    chosen, first, by_name = references(study), arms[0].name, {arm.name: arm for arm in arms}
    refs = {arm.name: ref if (ref := chosen[arm.name]) in values else first for arm in arms[1:]}
    effects = {arm.name: difference(_of(last, by_name[refs[arm.name]]), _of(last, arm)) for arm in arms[1:]}
    return ArmComparison(title, _place(table, last), values, effects, refs)


def at_last(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows (one for each arm, seed and position) of the last position that all have, or the last of each."""
    reached = table.groupby("at").size()
    shared = reached[reached == len(table.drop_duplicates(["arm", "seed"]))].index
    return table[table["at"] == shared.max()] if len(shared) else tables.final(table)


def _of(rows: pd.DataFrame, arm: Arm) -> pd.DataFrame:
    """Return the rows of an arm; of one that was trained, sampling error alone bounds no difference: seeds do."""
    rows = rows[rows["arm"] == arm.name]
    return rows.assign(low=np.nan, high=np.nan) if arm.objective else rows


def _mean(study: Study, arm: Arm, metric: str, rows: pd.DataFrame) -> str:
    value = float(rows["value"].mean())
    return number(value) + summary.above_width(study, arm, metric, value)


def _place(table: pd.DataFrame, last: pd.DataFrame) -> str:
    """Return where the values are taken; empty where there is but one position."""
    along, ends = table["along"].iloc[0], last["at"].unique()
    if table["at"].nunique() < 2:
        return ""
    return f"{along} {ends[0]:g}" if len(ends) == 1 else f"the last {along} of each"


def sentences(study: Study) -> list[str]:
    """Return the answer in a few sentences: how arms differ, or how the only one changed; and how sure that is."""
    found = comparisons(study) or changes(study)
    if not found:
        return []
    spoken = [_sentence(study, one) for one in found[:SPOKEN]]
    unclear = [one.title for one in found[SPOKEN:] if not any(effect.is_clear for effect in one.effects.values())]
    has_intervals = any(effect.basis for one in found for effect in one.effects.values())
    if unclear and has_intervals:
        spoken.append(f"Inconclusive or without an interval: {'; '.join(unclear)}.")
    return [*spoken, _basis(study, found)]


def _basis(study: Study, found: list[ArmComparison]) -> str:
    """Return what the intervals of the sentences are, and of what they say nothing."""
    bases = dict.fromkeys(effect.basis for one in found for effect in one.effects.values())
    what = "Geometry: means over layers 1..L"
    what += "; brackets: 95 % interval of the difference" if any(bases) else ""
    over_seeds = [basis for basis in bases if "paired" in basis]
    if over_seeds:
        return f"{what} over seeds ({'; '.join(over_seeds)})."
    what += ", of sampling error alone." if any(bases) else "."
    is_trained = any(arm.objective for arm in study.arms)
    few = " Fewer than three seeds: no interval, for another seed may differ by as much."
    return what + few * is_trained


def _sentence(study: Study, one: ArmComparison) -> str:
    place, names = f", {one.place}" if one.place else "", [*one.values]
    parts = []
    for name in names:
        effect = one.effects.get(name)
        who = f"{name}: " if len(study.arms) > 1 else ""
        reference = one.references.get(name, names[0])
        against = f" (against {reference})" if reference != names[0] else ""
        parts.append(f"{who}{one.values[name]}" + (f", {effect.words}{against}" if effect else ""))
    return f"{capital(one.title)}{place}. {named(parts)}."


def named(parts: Sequence[str]) -> str:
    """Return what is said of the first `NAMED` arms, and how many more there are."""
    return "; ".join(parts[:NAMED]) + (f"; and {len(parts) - NAMED} more" if len(parts) > NAMED else "")


def table(study: Study) -> Table | None:
    """Return how every arm but the first differs from its reference; None where there is nothing to compare."""
    found, (first, *names), rows, usual = comparisons(study), study.arm_names, [], references(study)
    for one in found:
        cells = tuple(one.effects[name].text if name in one.effects else DASH for name in names)
        # An arm may not have what its reference has.
        others = {ref for name, ref in one.references.items() if ref != usual[name]}
        parts = (capital(one.title), one.place, f"from {', '.join(sorted(others))}" if others else "")
        rows.append(TableRow(", ".join(filter(None, parts)), cells))
    note, is_one = _basis(study, found) if found else "", set(usual.values()) == {first}
    columns = tuple(name if is_one else f"{name}, from {usual[name]}" for name in names)
    title = f"Differences from {first}" if is_one else "Differences between arms"
    return Table(columns, rows, title, note, style="numbers") if found else None
