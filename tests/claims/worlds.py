"""Synthetic studies in which a claim holds, does not, or cannot be told: one generator for each kind of evidence.

A world maps an effect `x` and the `noise` between seeds (or models) to a study. `WORLDS` has one for every claim, with
the effects at which the claim holds and at which it does not.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dynamics import record
from dynamics.report.study import Study
from dynamics.run_info import FitInfo, RunInfo, ScanInfo

Steps = tuple[int, ...]
STEPS: Steps = (0, 1, 4, 16, 64, 256)
MANY: Steps = (0, *(2**i for i in range(11)))  # where phases are looked for
LAYERS, HEADS = 5, 3
POSITIVE = {"intrinsic_dimension", "effective_rank", "isoscore", "kurtosis", "bits_per_character", "isoscore_star"}
OF_HEADS = ("query", "key", "value", "attention", "weight")
DECODER = {"objective": "clm", "is_causal": True}
ENCODER = {"objective": "mlm", "is_causal": False}
MASKED = {"objective": "mlm", "is_causal": True}

Value = Callable[..., Any]  # of (arm, depth 0..1, progress 0..1, head): arrays that broadcast
Values = Mapping[tuple[str, str], Value]  # by site and metric
World = Callable[[float, float], Study]


def bell(depth: Any) -> Any:
    return np.exp(-(((depth - 0.5) / 0.25) ** 2))


def grid(
    site: str, metric: str, value: Value, arm: Any, noise: float, generator: np.random.Generator, steps: Steps = STEPS
) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return a quantity of one run, shape (steps, layers, heads), and its layers; noise of steps and of rows."""
    curve = site in ("train", "validation")
    layers = (-1,) if curve else tuple(range(site in OF_HEADS, LAYERS + 1))
    depth = np.array([(layer - 1) / (LAYERS - 1) for layer in layers])[None, :, None]
    progress = np.linspace(0, 1, len(steps))[:, None, None]
    heads = np.arange(HEADS if site in OF_HEADS else 1)[None, None, :]
    shape = len(steps), len(layers), heads.size
    values = np.broadcast_to(value(arm, depth, progress, heads), shape)
    errors = generator.standard_normal((len(steps), 1, 1)) + generator.standard_normal(shape)
    return values * np.exp(noise * errors) if metric in POSITIVE else values + 0.3 * noise * errors, layers


def rows_of(
    run: str, values: Values, arm: Any, noise: float, generator: np.random.Generator, subject: str = "",
    steps: Steps = STEPS,
) -> pd.DataFrame:  # fmt: skip
    """Return the rows of one run or model."""
    parts = []
    for (site, metric), value in values.items():
        array, layers = grid(site, metric, value, arm, noise, generator, steps)
        count = array.shape[2]
        step, layer, head = np.meshgrid(steps, layers, range(count) if count > 1 else [-1], indexing="ij")
        columns = {"step": step.ravel(), "layer": layer.ravel(), "head": head.ravel(), "value": array.ravel()}
        parts.append(pd.DataFrame(columns | {"site": site, "metric": metric, "run": run, "subject": subject}))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(condition="", low=np.nan, high=np.nan, n=4096, windows=32, n_effective=np.nan, reason="")


def study(infos: dict[str, RunInfo], records: dict[str, pd.DataFrame]) -> Study:
    """Return what `report.study` reads of runs, without the arms, which claims do not use."""
    return Study(pd.DataFrame(), pd.DataFrame(), (), infos, records)


def trained(
    values: Values, arms: Mapping[str, Mapping[str, Any]], noise: float, seeds: Iterable[int] = range(4),
    steps: Steps = STEPS,
) -> Study:  # fmt: skip
    """Return a study of training runs: every arm (settings of `run.json`) in every seed."""
    infos: dict[str, RunInfo] = {}
    records = {}
    for number, (arm, settings) in enumerate(arms.items()):
        for seed in seeds:
            run = f"{arm}-{seed}"
            infos[run] = FitInfo(run=run, status="done", seed=seed, **settings)
            generator = np.random.default_rng([7, number, seed])
            records[run] = rows_of(run, values, arm, noise, generator, steps=steps)
    return study(infos, records)


def scanned(values: Values, arms: Mapping[str, tuple[int, Mapping[str, Any]]], noise: float) -> Study:
    """Return a study of a scan: of every arm so many models, with their facts."""
    subjects, parts = {}, []
    for number, (arm, (count, facts)) in enumerate(arms.items()):
        for i in range(count):
            subject = f"{arm}-{i}@main"
            subjects[subject] = {"model": f"{arm}-{i}", "kind": "hub", **facts}
            rows = rows_of("scan", values, arm, noise, np.random.default_rng([9, number, i]), subject)
            parts.append(rows[rows["step"] == STEPS[-1]].assign(step=0))
    return study({"scan": ScanInfo(run="scan", subjects=subjects)}, {"scan": pd.concat(parts, ignore_index=True)})


def plain(rows: list[dict[str, Any]]) -> Study:
    """Return a study of rows without a `run.json`; what a row does not say has its default."""
    defaults = {"run": "r", "subject": "", "condition": "", "step": 0, "head": -1, "layer": -1, "n": 1, "reason": ""}
    defaults |= {"low": np.nan, "high": np.nan, "windows": 0, "n_effective": np.nan}
    frame = pd.DataFrame([defaults | row for row in rows])[record.COLUMNS]
    records = {str(run): record.with_conditions(part) for run, part in frame.groupby("run")}
    return study({run: RunInfo.from_dict({}) for run in records}, records)


def probed(x: float, noise: float) -> Study:
    """Return a probe: outputs gain `x` of mean cosine, attention loses `x` of its entropy, by a bias not on keys."""
    generator, rows = np.random.default_rng(3), list[dict[str, Any]]()
    for seed in range(5):
        for beta in (0, 2, 8):
            for place, metric, layer, part, value in (
                ("residual", "mean_cosine", 0, "input", beta / 20),
                ("residual", "mean_cosine", 2, "mlp", beta / 20 + x * (beta > 0)),
                *(
                    ("attention", "normalized_entropy", 1, bias, 0.9 - x * beta / 8 * (bias != "key"))
                    for bias in BIASES
                ),
            ):
                is_state = place == "residual"
                keys = {"beta": beta, "bias": "input" if is_state else part, "seed": seed}
                condition = record.condition(**keys, **({"part": part} if is_state else {}))
                noisy = value + noise * generator.standard_normal()
                rows.append({"condition": condition, "site": place, "layer": layer, "metric": metric, "value": noisy})
    return plain(rows)


BIASES = ("input", "query", "key")
TUNED = ("bge-a", "bge-b", "bge-c", "bge-d", "bge-e")


def coned(x: float, noise: float) -> Study:
    """Return cones: sentences gain `x` over tokens, the last layer loses `x` of it all, axes turn by `x`."""
    generator, rows = np.random.default_rng(4), list[dict[str, Any]]()

    def add(model: str, metric: str, value: float, layer: int, site: str = "sentence", **keys: Any) -> None:
        noisy = value + noise * generator.standard_normal()
        condition = record.condition(**keys)
        keyed = {"subject": model, "metric": metric, "layer": layer, "site": site, "condition": condition}
        rows.append(keyed | {"value": noisy})

    for model in (*TUNED, "bert-base"):
        for layer in range(LAYERS + 1):
            cosine = 0.6 * (1 - x) if layer == LAYERS else 0.6
            add(model, "mean_cosine", cosine, layer)
            add(model, "mean_cosine", 0.6 - x, layer, "token")
        add(model, "axis_stability", 0.97, LAYERS)
        add(model, "axis_cosine", 0.97 - x, LAYERS, corpus="news", against_corpus="sentences")
        if model in TUNED:
            add(model, "axis_cosine", 0.97 - x, LAYERS, against="bert-base")
    return plain(rows)


LAMBDAS = {f"lambda{weight}": weight for weight in (-5, -1, 0, 1, 5)}


def regularized(values: Callable[[float], Values]) -> World:
    """Return a world of I-STAR over lambda; values are told the arm's lambda in the place of its name."""

    def world(x: float, noise: float) -> Study:
        arms = {
            name: DECODER | ({"regularizers": {"istar": {"class": "IStar", "weight": float(weight)}}} if weight else {})
            for name, weight in LAMBDAS.items()
        }
        told = {key: (lambda f: lambda arm, *rest: f(LAMBDAS[arm], *rest))(value) for key, value in values(x).items()}
        return trained(told, arms, noise)

    return world


def shrunk(x: float, noise: float) -> Study:
    """Return runs with and without shrinkage, the estimate without it `x` times as restless."""
    arms = {
        name: DECODER | {"regularizers": {"istar": {"class": "IStar", "weight": -1.0, "reference_weight": weight}}}
        for name, weight in (("bare", 0.0), ("shrunk", 0.2))
    }
    bare = trained({("residual", "isoscore"): lambda *_: 0.1}, arms, 0.0)
    records = {}
    for number, (run, rows) in enumerate(bare.records.items()):
        generator = np.random.default_rng([5, number])
        jitter = 0.01 * (x if run.startswith("bare") else 1.0) * np.exp(noise * generator.standard_normal())
        values = 0.2 + jitter * generator.standard_normal(64)
        curve = rows.iloc[:1].drop(columns=["step", "value"]).assign(site="train", layer=-1, metric="isoscore_star")
        curve = curve.merge(pd.DataFrame({"step": range(1, 65), "value": values}), how="cross")
        records[run] = pd.concat([rows, curve], ignore_index=True)
    return study(bare.runs, records)


TWINS = {"decoder": DECODER, "encoder": ENCODER}


def twins(values: Callable[[float], Values], **more: Mapping[str, Any]) -> World:
    """Return a world of decoders and encoders, and of `more` arms."""
    arms = {**TWINS, **more}
    return lambda x, noise: trained(values(x), arms, noise)


def factor(name: str, first: str, second: str, values: Callable[[float], Values]) -> World:
    """Return a world of decoders that differ in one setting; the arms are named by its values."""
    arms = {value: DECODER | {"model": {name: value}} for value in (first, second)}
    return lambda x, noise: trained(values(x), arms, noise)


def designs(x: float, noise: float) -> Study:
    """Return designs whose rank goes with quality by `x`, from -1 to 1."""
    arms = {f"design{i}": DECODER | {"learning_rate": 0.1 * (i + 1)} for i in range(6)}
    rank = dict(zip(arms, (0.0, 1.0, 2.0, 0.5, 1.5, 2.5), strict=True))
    other = dict(zip(arms, (1.0, 1.0, 0.0, 2.0, 2.5, 1.0), strict=True))

    def bits(arm: str, *_: Any) -> float:
        return float(np.exp(-0.3 * (x * rank[arm] + (1 - abs(x)) * other[arm])))

    values = {("residual", "effective_rank"): lambda arm, *_: np.exp(rank[arm])}
    return trained({**values, ("validation", "bits_per_character"): bits}, arms, noise)


def cosine(x: float) -> Values:
    return {("residual", "mean_cosine"): lambda *_: x}


def of_decoders(scale: Value) -> Callable[[float], Values]:
    return lambda x: {("residual", "anisotropy"): lambda arm, d, t, h: 0.1 + x * scale(d) * (arm == "decoder")}


def phases(metric: str, curve: Callable[[Any], Any]) -> World:
    def values(x: float) -> Values:
        return {("residual", metric): lambda arm, d, t, h: 20 * np.exp(x * curve(t))}

    return lambda x, noise: trained(values(x), TWINS, noise, steps=MANY)


def heads_drift(x: float) -> Values:
    drift = {(site, "drift"): lambda arm, d, t, h: t * (1 + h + d) for site in ("query", "key")}
    fall = {("attention", "normalized_entropy"): lambda arm, d, t, h: 0.9 - 0.1 * x * t * (1 + h + d)}
    return {**drift, **fall}


class Case(NamedTuple):
    """A world, and the effects at which the claim holds and does not."""

    world: World
    holds: float
    fails: float
    open: float | None = None  # the effect at which nothing can be told, `holds` by default
    loud: float = 2.0  # the noise between seeds there
    quiet: float = 0.01  # the noise elsewhere


def _bell_of(arms: Callable[[float], Mapping[str, float]]) -> World:
    return twins(lambda x: {("residual", "anisotropy"): lambda arm, d, *_: 0.1 + arms(x)[arm] * bell(d)}, masked=MASKED)


def _needs_growth(site: str, metric: str) -> World:
    return twins(lambda x: {(site, metric): lambda arm, d, t, h: 0.1 + x * t})


WORLDS: dict[str, Case] = {
    "S1a": Case(twins(of_decoders(bell)), 0.5, -0.3),
    "S1b": Case(twins(of_decoders(bell)), 0.5, 0.0),
    "S1c": Case(phases("intrinsic_dimension", lambda t: np.sin(np.pi * t) + 0.3 * t), 0.5, -0.5),
    "S1d": Case(_needs_growth("residual", "anisotropy"), 0.3, -0.1),
    "S1e": Case(
        twins(
            lambda x: {
                ("residual", "local_anisotropy"): lambda *_: 0.1,
                ("residual", "local_anisotropy_random"): lambda *_: 0.1 + x,
                ("residual", "anisotropy"): lambda *_: 0.4,
            }
        ),
        *(0.1, -0.05),
    ),
    "S2a": Case(
        regularized(lambda x: {("residual", "isoscore"): lambda w, *_: 0.1 * np.exp(x * np.sign(w))}), 0.5, -0.5
    ),
    "S2b": Case(
        regularized(
            lambda x: {
                ("residual", "isoscore"): lambda w, *_: 0.1 * np.exp(w / 5),
                ("residual", "intrinsic_dimension"): lambda w, d, t, h: 10 * np.exp(x * w / 5 - t),
            }
        ),
        *(0.5, -0.5),
    ),
    "S2c": Case(
        regularized(lambda x: {("validation", "bits_per_character"): lambda w, *_: 2 * np.exp(0.1 * x * np.sign(w))}),
        *(1.0, -1.0),
    ),
    "S2d": Case(shrunk, 3.0, 0.5),
    "S3a": Case(twins(cosine), 0.5, 0.0, loud=6.0),
    "S3b": Case(
        twins(
            lambda x: {
                ("residual", "mean_cosine"): lambda arm, d, t, h: 0.1 + 0.5 * d,
                ("residual", "norm_of_mean"): lambda arm, d, t, h: 3 + 2 * x * d,
            }
        ),
        *(1.0, -1.0),
    ),
    "S3c": Case(probed, 0.3, -0.1),
    "S3d": Case(
        twins(lambda x: {("attention", "qk_alignment"): lambda a, d, t, h: (-1.0) ** h * (0.3 + x * t)}), 0.4, -0.2
    ),
    "S3e": Case(twins(heads_drift), 1.0, -1.0, loud=0.8),
    "S4a": Case(coned, 0.3, -0.1),
    "S4b": Case(coned, 0.8, 0.1),
    "S4c": Case(coned, 0.4, 0.0),
    "S4d": Case(coned, 0.9, 0.1),
    "B1": Case(twins(lambda x: {("weight", "qk_symmetry"): lambda arm, *_: x * (arm == "encoder")}), 0.3, -0.2),
    "B2": Case(_needs_growth("attention", "sink_mass"), 0.3, 0.0),
    "B3": Case(
        factor(
            *("optimizer", "adamw", "sgd"),
            lambda x: {
                ("residual", "norm_of_mean"): lambda arm, *_: 0.2 + x * (arm == "adamw"),
                ("residual", "mean_norm"): lambda *_: 1.0,
            },
        ),
        *(0.4, -0.1),
    ),
    "B4": Case(
        factor(
            *("optimizer", "adamw", "muon"),
            lambda x: {("residual", "kurtosis"): lambda arm, *_: 3 * np.exp(x * (arm == "adamw"))},
        ),
        *(0.5, -0.2),
    ),
    "B5": Case(twins(lambda x: {("residual", "effective_rank"): lambda a, d, t, h: 20 * np.exp(-x * d)}), 0.5, -0.2),
    "B6": Case(
        phases("effective_rank", lambda t: -np.sin(2.5 * np.pi * t) * (1 + (t > 0.5))), 0.5, 0.0, loud=4.0, quiet=0.005
    ),
    "B7": Case(
        twins(lambda x: {("residual", "intrinsic_dimension"): lambda a, d, t, h: 10 * np.exp(x * t * bell(d))}),
        0.7,
        -0.5,
    ),
    "B8": Case(twins(cosine), 0.0, 0.5, loud=6.0),
    "B9": Case(
        twins(
            lambda x: {
                **{(site, "drift"): lambda a, d, t, h: 2 + t for site in ("query", "key")},
                ("value", "drift"): lambda a, d, t, h: (2 + t) * np.exp(x),
            }
        ),
        *(1.0, 0.0, 0.4, 1.0),
    ),
    "B10": Case(designs, 0.0, 1.0, 0.5, 0.3),
    "B11": Case(designs, 1.0, -1.0, 0.6, 0.3),
    "B12": Case(twins(of_decoders(lambda d: d**2)), 0.5, -0.3),
    "B13": Case(
        regularized(lambda x: {("validation", "bits_per_character"): lambda w, *_: 2 * np.exp(-0.1 * x * np.sign(w))}),
        *(1.0, -1.0),
    ),
    "B14": Case(_bell_of(lambda x: {"decoder": 0.6, "masked": 0.3 + x, "encoder": 0.1}), 0.3, -0.2, 0.0, 0.3),
    "B15": Case(_bell_of(lambda x: {"decoder": 0.6, "masked": 0.3 + x, "encoder": 0.1}), -0.2, 0.3, 0.0, 0.3),
    "B16": Case(probed, 0.3, 0.0, quiet=0.001),
    "B17": Case(
        factor(
            *("attention", "softmax", "none"),
            lambda x: {("residual", "anisotropy"): lambda arm, d, t, h: 0.1 + x * bell(d) * (arm == "softmax")},
        ),
        *(0.5, 0.0, 0.05, 0.5),
    ),
}
