"""The shape of profiles over depth, over seeds: whether there is a bell, where, and how arms differ in it."""

from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd

from dynamics.report import tables
from dynamics.report.blocks import Section, Table, TableRow
from dynamics.report.effects import Effect, at_last, changed, difference, named, references
from dynamics.report.names import DASH, estimate
from dynamics.report.profiles import BELL, Profile, profile
from dynamics.report.study import Study
from dynamics.report.summary import by_arm, join

SITE = "residual"
METRICS = ("anisotropy", "intrinsic_dimension")  # the first is that of the bell (arXiv 2311.05928)
STATISTICS = {
    "height": "height of the peak above both ends",
    "peak": "place of the peak (0: layer 1, 1: the last)",
    "span": "greatest less least value",
}
RANGES = {"peak": (0, 1), "span": (0, None)}


class Shapes(NamedTuple):
    """The shape of one quantity at the last step: `seeds` has a row for each arm and seed, `arms` one for each arm.

    Both have the columns `arm statistic value low high`; `seeds` also `seed`. The intervals are over seeds.
    """

    title: str
    place: str  # where the profiles are taken: `step 200`
    seeds: pd.DataFrame
    arms: pd.DataFrame

    def of(self, arm: str, statistic: str) -> Effect | None:
        """Return a statistic of an arm with its interval; None where it has none."""
        rows = self.arms[(self.arms["arm"] == arm) & (self.arms["statistic"] == statistic)].to_dict("records")
        return Effect(rows[0]["value"], rows[0]["low"], rows[0]["high"]) if rows else None

    def change(self, first: str, second: str, statistic: str) -> Effect:
        """Return the second arm less the first."""
        rows = self.seeds[self.seeds["statistic"] == statistic]
        return difference(*(rows[rows["arm"] == arm] for arm in (first, second)))


def applies(study: Study) -> bool:
    """Whether an arm has the seeds that an interval takes."""
    return any(len(arm.seeds) >= tables.SEEDS for arm in study.arms)


def section(study: Study) -> Section | None:
    """Return the shapes of all arms and how they differ, with what follows for the bell."""
    by_metric = {metric: shapes for metric in METRICS if (shapes := of(study, metric)) is not None}
    if not by_metric:
        return None
    found, bells = [*by_metric.values()], by_metric.get(METRICS[0])
    blocks = [_by_arm(study, found), *_differences(study, found)]
    findings = [*_bells(bells, study), *_masks(bells, study)] if bells is not None else []
    return Section("Shape over depth", "shape", "Shape", blocks, findings=findings)


def of(study: Study, metric: str) -> Shapes | None:
    """Return the shapes of a quantity in the residual stream; None where no profile has three layers."""
    table = tables.without_heads(tables.geometry(study.rows, SITE, metric))
    if table.empty:
        return None
    groups = table[table["layer"] > 0].sort_values("layer").groupby(["arm", "seed", "at"], sort=False)["value"]
    rows = pd.DataFrame(
        [(*key, *profile(values.to_numpy())) for key, values in groups], columns=["arm", "seed", "at", *Profile._fields]
    )
    rows = rows[rows["arm"].isin(rows.loc[np.isfinite(rows["height"]), "arm"])]
    if rows.empty:
        return None
    last = at_last(tables.reached(rows))
    steps = last["at"].unique()
    long = last.melt(["arm", "seed", "at"], [*STATISTICS], var_name="statistic").assign(low=np.nan, high=np.nan)
    means = [_over_seeds(part).assign(statistic=statistic) for statistic, part in long.groupby("statistic")]
    place = f"step {steps[0]:g}" if len(steps) == 1 else "the last step of each"
    return Shapes(study.heading(SITE, metric), place, long, pd.concat(means))


def _over_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds of each arm, with its t interval, within what the statistic can be."""
    means = tables.over_seeds(rows.assign(layer=-1, head=-1, n=0, least=np.nan, greatest=np.nan))
    least, most = RANGES.get(rows["statistic"].iloc[0], (None, None))
    return means.assign(low=means["low"].clip(least), high=means["high"].clip(upper=most))


def _by_arm(study: Study, found: list[Shapes]) -> Table:
    rows = [
        TableRow(f"{one.title}: {text}", tuple(_cell(one.of(name, statistic)) for name in study.arm_names))
        for one in found
        for statistic, text in STATISTICS.items()
    ]
    note = join(
        [
            f"profiles over layers 1..L at {found[0].place}; brackets: 95 % t interval over seeds, of three or more",
            f"a bell of anisotropy has a height above {BELL:g}: noise alone can lift a peak a little above both ends",
        ]
    )
    return by_arm(study, rows, "The shape of profiles over depth", note, style="numbers")


def _cell(value: Effect | None) -> str:
    return DASH if value is None else estimate(value._asdict())


def _differences(study: Study, found: list[Shapes]) -> Iterator[Table]:
    pairs = references(study)
    if not pairs:
        return
    rows = []
    for one in found:
        known = set(one.arms["arm"])
        for statistic, text in STATISTICS.items():
            effects = [
                one.change(first, name, statistic).text if {first, name} <= known else DASH
                for name, first in pairs.items()
            ]
            rows.append(TableRow(f"{one.title}: {text}", tuple(effects)))
    columns = tuple(f"{name}, from {first}" for name, first in pairs.items())
    note = "Brackets: 95 % interval of the difference, within seeds where arms share three or more."
    yield Table(columns, rows, "How shapes differ", note, style="numbers")


def is_bell(height: Effect) -> bool | None:
    """Whether a height is that of a bell, above `BELL`; None where its interval does not say, or there is none.

    >>> is_bell(Effect(0.2, 0.1, 0.3)), is_bell(Effect(0.01, 0.005, 0.02)), is_bell(Effect(0.1, -0.1, 0.3))
    (True, False, None)
    """
    return True if height.low > BELL else False if height.high < BELL else None


def _bells(one: Shapes, study: Study) -> Iterator[str]:
    """Yield which arms have a bell, in a sentence."""
    parts = []
    for name in study.arm_names:
        height, peak = one.of(name, "height"), one.of(name, "peak")
        if height is not None and peak is not None:
            word = {True: "a bell", False: "none", None: "not told"}[is_bell(height)]
            parts.append(f"{name}: {word}, {_cell(height)}, peak at {_cell(peak)} of the depth")
    what = f"Bell of {_lower(one.title)} over depth: its peak more than {BELL:g} above both ends, {one.place}"
    yield f"{what}. {named(parts)}."


def _masks(one: Shapes, study: Study) -> Iterator[str]:
    """Yield, for each two arms that differ in the causal mask alone, whether it makes the bell."""
    for pair in combinations(study.arms, 2):
        if list(changed(*pair)) != ["is_causal"]:
            continue
        free, masked = sorted(pair, key=lambda arm: bool(arm.settings.get("is_causal")))
        heights = one.of(masked.name, "height"), one.of(free.name, "height")
        if heights[0] is None or heights[1] is None:
            continue
        effect = one.change(free.name, masked.name, "height")
        answer = verdict(heights[0], heights[1], effect)
        basis = f" ({effect.basis})" if effect.basis else ", without an interval"
        yield (
            f"Does the causal mask make the bell of {_lower(one.title)}? {answer} Height, {masked.name} less "
            f"{free.name}: {effect.text}{basis}."
        )


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def verdict(masked: Effect, free: Effect, effect: Effect) -> str:
    """Return whether the mask makes the bell, by the heights with it and without it and by their difference.

    >>> verdict(Effect(0.2, 0.1, 0.3), Effect(-0.1, -0.2, -0.05), Effect(0.3, 0.2, 0.4))
    'Yes: there is one with it and none without it; it makes the peak higher.'
    >>> verdict(Effect(0.2, 0.1, 0.3), Effect(0.2, 0.1, 0.4), Effect(0.1, -0.1, 0.3))
    'No: there is one without it too.'
    >>> verdict(Effect(0.2, 0.1, 0.3), Effect(0.1, -0.1, 0.3), Effect(0.1, -0.1, 0.3))
    'Inconclusive: whether there is one without it is not told.'
    """
    there = {"with it": is_bell(masked), "without it": is_bell(free)}
    if unclear := [where for where, bell in there.items() if bell is None]:
        answer = f"Inconclusive: whether there is one {' and '.join(unclear)} is not told"
    elif there["without it"]:
        answer = f"No: there is one without it{' too' if there['with it'] else ', and none with it'}"
    elif not there["with it"]:
        answer = "No: there is none with it or without it"
    else:
        answer = f"{'Yes' if effect.is_clear else 'Inconclusive'}: there is one with it and none without it"
    moved = f"; it makes the peak {'higher' if effect.value > 0 else 'lower'}" if effect.is_clear else ""
    return f"{answer}{moved}."
