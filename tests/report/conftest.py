"""Synthetic records of three arms: shapes as in the literature, numbers from formulas."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from dynamics import record
from dynamics.record import NAN, Row
from dynamics.report.blocks import TableRow

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 200)
LAYERS, HEADS = 4, 4

KINDS = {
    "decoder": {"objective": "clm", "is_causal": True, "label": "decoder (causal, clm)"},
    "encoder": {"objective": "mlm", "is_causal": False, "label": "encoder (bidirectional, mlm)"},
    "masked": {"objective": "mlm", "is_causal": True, "label": "causal, mlm"},
}


def geometry(run: str, step: int, bell: float, noise: np.random.Generator) -> list[Row]:
    learned = np.log1p(step) / np.log1p(STEPS[-1])
    rows = []

    def add(site: str, layer: int, head: int, metric: str, value: float, width: float = NAN, n: int = 4096) -> None:
        value = float(value + 0.003 * noise.standard_normal())
        rows.append(Row(run, "", "", step, site, layer, head, metric, value, value - width, value + width, n))

    for layer in range(LAYERS + 1):
        depth = layer / LAYERS
        shape = 0.03 + learned * (bell * np.exp(-(((depth - 0.5) / 0.25) ** 2)) + 0.05)
        rise = np.sin(np.pi * min(1.0, 1.4 * learned))
        for site in ("residual", "output") if layer == LAYERS else ("residual",):
            add(site, layer, -1, "anisotropy", shape, 0.02)
            add(site, layer, -1, "mean_cosine", 0.05 + learned * bell * (0.4 + 0.5 * depth), 0.015)
            dimension = NAN if layer == 0 and step < 2 else 9 + 14 * rise * (1 + depth) / 2
            add(site, layer, -1, "intrinsic_dimension", dimension, 0.8, n=3900 if layer else 205)
            add(site, layer, -1, "norm_of_mean", 0.4 + 6 * learned * depth * bell, 0.1)
            add(site, layer, -1, "effective_rank", 40 - 20 * learned * depth, NAN)
    for layer in range(1, LAYERS + 1):
        by_head = {}
        for head in range(HEADS):
            by_head[head] = {
                ("query", "drift"): 3 * learned * bell * (1 + 0.3 * head),
                ("key", "drift"): 2 * learned * bell * (1 + 0.2 * head),
                ("query", "norm_of_mean"): 0.5 + 3 * learned * bell,
                ("key", "norm_of_mean"): 0.5 + 2 * learned * bell,
                ("attention", "qk_alignment"): (-1) ** head * learned * bell * layer / LAYERS,
                ("attention", "entropy"): 4.1 - 2 * learned * bell * (head + 1) / HEADS,
                ("attention", "normalized_entropy"): 0.99 - 0.5 * learned * bell * (head + 1) / HEADS,
                ("weight", "qk_symmetry"): (0.5 - bell) * learned * (head + 1) / HEADS,
            }
        by_head[-1] = {key: np.mean([values[key] for values in by_head.values()]) for key in by_head[0]}
        for head, values in by_head.items():
            for (site, metric), value in values.items():
                add(site, layer, head, metric, value, 0.05 if site != "weight" else NAN)
    return rows


def histograms(run: str, step: int, noise: np.random.Generator) -> list[record.Array]:
    edges = np.linspace(-8, 8, 33)
    arrays = []
    for layer in range(1, LAYERS + 1):
        for head in (-1, 0):
            logits = noise.normal(0, 1 + 0.01 * step, 1000)
            counts = np.bincount(np.digitize(logits, edges), minlength=34)
            for name, values in (("logit_histogram", counts), ("logit_edges", edges)):
                arrays.append(record.Array(run, "", "", step, "attention", layer, head, f"logit_max/{name}", values))
    return arrays


def curves(run: str, start: float, end: float, noise: np.random.Generator, bits: str) -> list[Row]:
    rows = []
    for step in range(STEPS[-1] + 1):
        for site in ["train"] * (step > 0) + ["validation"] * (step in STEPS):
            value = (
                end + (start - end) / (1 + step / 12) + (0.08 if site == "train" else 0.01) * noise.standard_normal()
            )
            width = 0.03 if site == "validation" else NAN
            for metric, scale in ((bits, 1.0), ("loss", np.log(2))):
                v, w = value * scale, width * scale
                rows.append(Row(run, "", "", step, site, -1, -1, metric, v, v - w, v + w, 65536))
        if step and step % 10 == 0:
            rows.append(Row(run, "", "", step, "cost", -1, -1, "step_seconds", 0.11))
        if step in STEPS:
            rows.append(Row(run, "", "", step, "cost", -1, -1, "measure_seconds", 0.4))
            for name, seconds in (("anisotropy", 0.02), ("intrinsic_dimension", 0.31), ("entropy", 0.05)):
                rows.append(Row(run, "", "", step, "cost", -1, -1, f"measure_seconds/{name}", seconds))
    return rows


def write_run(folder: Path, content: Mapping[str, object]) -> None:
    """Write `run.json` as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(content))


def make_run(folder: Path, kind: str = "decoder", seed: int = 0, **settings: object) -> Path:
    """Write the run `folder` as training would and return its path; `settings` go into `run.json`."""
    noise = np.random.default_rng([seed, *kind.encode()])
    bell = {"decoder": 0.6, "encoder": 0.15, "masked": 0.4}[kind] * (1 + 0.05 * noise.standard_normal())
    out = record.Record(folder)
    for step in STEPS:
        out.write(step, geometry(folder.name, step, bell, noise), histograms(folder.name, step, noise))
    start, end = (7.6, 2.4) if kind == "decoder" else (7.5, 3.1)
    bits = "bits_per_character" if kind == "decoder" else "bits_per_masked_character"
    out.add_curves(curves(folder.name, start, end + 0.02 * noise.standard_normal(), noise, bits))
    out.flush()
    provenance = {
        **{"run": folder.name, "kind": "fit", "status": "done", "seed": seed, **KINDS[kind]},
        **{"created": f"2025-11-21T10:0{seed}:00", "finished": f"2025-11-21T10:1{seed}:00"},
        **{"layers": LAYERS, "heads": HEADS, "width": 64, "parameters": 219_000, "context": 128, "batch_size": 32},
        **{"max_steps": STEPS[-1], "learning_rate": 1e-3, "precision": "32-true"},
        "data": {"corpus": "enwik8", "sha256": "0" * 64, "vocabulary": 205, "gzip_bits_per_character": 2.71},
        "probe": {"windows": 32, "tokens": 4096, "sha256": "1" * 64},
        "metrics": {"residual": {"anisotropy": {}, "intrinsic_dimension": {"discard": 0.1}}},
        "versions": {"python": "3.11", "torch": "2.13.0"},
        **{"commit": "a8eebf9", "hardware": "2 CPU cores"},
        "command": f"dynamics fit --config configs/{kind}.yaml --seed_everything {seed}",
    }
    write_run(folder, provenance | settings)
    return folder


def cells(rows: Sequence[TableRow], label: str) -> tuple[str, ...]:
    """Return the cells of the row with a label."""
    return next(row.cells for row in rows if row.label == label)


def filled(figure: go.Figure, kind: str) -> list[Any]:
    """Return the traces of a kind that show anything: legends and colour bars bring traces without points."""
    return [trace for trace in figure.data if trace.type == kind and list(trace.x) not in ([], [None])]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Make a run by name: `make("d0", "decoder", seed=0, width=32)`."""
    return lambda name, kind="decoder", **settings: make_run(tmp_path / name, kind, **settings)


@pytest.fixture(scope="session")
def twins(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One run of each of the three arms."""
    folder = tmp_path_factory.mktemp("twins")
    return [str(make_run(folder / kind, kind)) for kind in KINDS]
