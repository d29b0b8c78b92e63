"""How often the 95 % intervals of the metrics hold: a table of coverage, on drawn states and on those of trained twins.

    python benchmarks/calibration.py [--part synthetic] [--repetitions 400] [--jobs 16] [--json FILE] [--page FILE]
    python benchmarks/calibration.py --part real --runs RUN RUN --text FILE [--sets 200] ...
    python benchmarks/calibration.py --part phases [--repetitions 400] [--jobs 16] [--json FILE]
    python benchmarks/calibration.py --read FILE... --page docs/calibration.md

Each cell draws a data set many times, each time with an interval, and counts how often the interval holds the mean of
the values of all draws: the expectation of the estimator for as many windows. The real part cuts `--text` into disjoint
sets of 32 windows and takes the states of each run's last weights; every set is a draw. The part `phases` counts how
often change points are found that are there, and that are not (benchmarks/phases.py).
"""

import argparse
import itertools
import json
import logging
import math
import os
import warnings
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # the processes are the parallel part; read before torch is imported

import numpy as np
import phases
import torch

from dynamics.capture import AttentionCall
from dynamics.measure import Meter, Suite
from dynamics.metrics import default
from dynamics.metrics.streaming import Attention, Pair, States

WIDTH, LENGTH, HEADS = 16, 24, 2  # of the drawn states; tokens of a window
WINDOWS = (4, 8, 16, 32)
KINDS = {
    "independent": "independent Gaussian tokens",
    "autoregressive": "tokens of a window in an AR(1) sequence, 0.8 from one to the next",
    "shared mean": "each window about a mean of its own, as far out as its tokens are spread",
    "lengths": "windows of 4 to 64 tokens, the logarithm uniform",
    "t5": "coordinates with Student's t distribution, 5 degrees of freedom",
    "t3": "the same with 3 degrees of freedom",
    "variance": "each window with a spread of its own, log-normal with deviation 0.3",
    "padding": "independent tokens, and one window more of padding alone",
    "near duplicates": "a third of the tokens near copies (0.1 %) of 8 states that all windows share",
}
WITHOUT = {"duplicate_share", "local_anisotropy", "local_anisotropy_random", "logit_max", "qk_symmetry"}
TO_START = ("cka_to_start", "linearity_to_start")
PAIR = ("linear_cka", "procrustes_linearity")
SITES = {site: [n for n in names if n not in WITHOUT] for site, names in default().items()}
SYNTHETIC = {
    "residual": [*SITES["residual"], *TO_START],
    "query": SITES["query"],
    "attention": [*SITES["attention"], "score_variance", "min_probability", "sink_rate"],
    "pair": [*PAIR],
}


def suite(sites: dict[str, list[str]]) -> Suite:
    block = {}
    for site, names in sites.items():
        for name in names:
            block.setdefault(name, {"sites": []})["sites"].append(site)
    return Suite.parse(block)


ALL = suite(SYNTHETIC)
START = suite({"residual": list(TO_START), "query": ["drift"]})


def draw(kind: str, windows: int, rng: np.random.Generator) -> tuple[list[int], np.ndarray]:
    """Return the lengths of windows, and three standardised states for each token: (n, 3 * WIDTH)."""
    lengths = [LENGTH] * windows
    if kind == "lengths":
        lengths = np.exp(rng.uniform(math.log(4), math.log(64), windows)).round().astype(int).tolist()
    shape = (sum(lengths), 3 * WIDTH)
    z = rng.standard_t(int(kind[1]), shape) if kind in ("t3", "t5") else rng.standard_normal(shape)
    parts = np.split(z, np.cumsum(lengths)[:-1])
    if kind == "autoregressive":
        for part in parts:
            for i in range(1, len(part)):
                part[i] = 0.8 * part[i - 1] + 0.6 * part[i]
    if kind == "shared mean":
        parts = [part + rng.standard_normal(part.shape[1]) for part in parts]
    if kind == "variance":
        parts = [part * math.exp(rng.normal(0, 0.3)) for part in parts]
    if kind == "near duplicates":
        pool = np.random.default_rng(0).standard_normal((8, 3 * WIDTH))
        for part in parts:
            copies = rng.random(len(part)) < 1 / 3
            part[copies] = pool[rng.integers(8, size=copies.sum())] + 1e-3 * part[copies]
    return lengths, np.concatenate(parts)


def padded(x: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Return (B, H, T, d_h) of the tokens (n, d) of windows."""
    rows = torch.nn.utils.rnn.pad_sequence(list(x.split(lengths)), batch_first=True)
    return rows.unflatten(2, (HEADS, -1)).transpose(1, 2).contiguous()


def synthetic_values(kind: str, windows: int, seed: int) -> dict[str, tuple]:
    """Return value, low, high and reason of every quantity of one draw."""
    rng = np.random.default_rng((list(KINDS).index(kind), windows, seed))
    lengths, z = draw(kind, windows, rng)
    weights = np.random.default_rng(1).standard_normal((WIDTH, WIDTH)) / 4
    spread = np.arange(1, WIDTH + 1) ** -0.5
    x, noise, other = (part * spread for part in np.split(z, 3, axis=1))
    x = x + 0.4
    y = x @ weights + 0.3 * noise
    x, y, other = (torch.from_numpy(part).float() for part in (x, y, other + 0.3))
    ids = torch.arange(windows).repeat_interleave(torch.tensor(lengths))
    query, key = 2 * padded(x, lengths), 2 * padded(y + other, lengths)
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    if kind == "padding":
        query, key, valid = (torch.cat([part, torch.zeros_like(part[:1])]) for part in (query, key, valid))
    mask = valid[:, None, None]
    call = AttentionCall(1, query, key, query.shape[-1] ** -0.5, mask, True, valid)
    rows_of_windows = torch.arange(len(valid))

    def measured(suite: Suite, states: torch.Tensor, step: int, references: dict) -> "Measurement":  # noqa: F821
        meter = Meter(suite)
        batches = {
            "residual": States(states[:, None], ids),
            "query": States(states.unflatten(1, (HEADS, -1)), ids),
            "attention": Attention(call, rows_of_windows),
            "pair": Pair(x[:, None], y[:, None], ids),
        }
        for site, batch in batches.items():
            if suite.sites.get(site):
                meter.feed(site, 1, batch)
        return meter.compute(step=step, references=references)

    start = measured(START, y, 0, {})
    rows = measured(ALL, x, 1, start.references).rows
    return {label(row): (row.value, row.low, row.high, row.reason) for row in rows if row.head in (-1, 0)}


def label(row) -> str:
    return f"{row.site} {row.metric}" + (", a head" if row.head == 0 else "")


@cache
def held_out(run: str, text: str, sets: int, windows: int) -> torch.Tensor:
    """Return the windows of each set, (sets, windows, context): sets take turns along the text."""
    from tokenizers import Tokenizer

    folder = Path(run)
    context = json.loads((folder / "run.json").read_text())["context"]
    if text.endswith(".txt"):
        content = Path(text).read_text()
    else:
        from dynamics.data.corpus import load

        content = load(text).text()
    content = content[: sets * windows * context]
    vocabulary = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = vocabulary.encode(content).ids
    sets = min(sets, len(ids) // (windows * context))
    return torch.tensor(ids[: sets * windows * context]).view(windows, sets, context).transpose(0, 1)


@cache
def weights_of(run: str, which: int):
    from dynamics.models.transformer import CharTransformerLM

    folder = sorted((Path(run) / "weights").iterdir())[which]
    return CharTransformerLM.from_pretrained(folder).eval()


def real_values(run: str, text: str, sets: int, metrics: list[str], place: int) -> dict[str, tuple]:
    """Return value, low, high and reason of every quantity at every layer, of one set of windows."""
    from dynamics.measure import measure

    windows = held_out(run, text, sets, 32)
    if place >= len(windows):
        return {}
    batches = [{"input_ids": windows[place]}]
    sites = ("residual", "output")
    of_start = {site: list(TO_START) for site in sites} | {"query": ["drift"], "key": ["drift"]}
    start = measure(weights_of(run, 0), batches, suite(of_start), references={})
    names = {site: [*SITES[site], *TO_START] for site in sites}
    names |= {"query": SITES["query"], "key": SITES["key"], "attention": SYNTHETIC["attention"], "pair": [*PAIR]}
    names = {site: [name for name in of_site if name in (metrics or of_site)] for site, of_site in names.items()}
    rows = measure(weights_of(run, -1), batches, suite(names), step=1, references=start.references).rows
    kept = [row for row in rows if row.head in (-1, 0)]
    return {f"{label(row)} | layer {row.layer}": (row.value, row.low, row.high, row.reason) for row in kept}


def work(task: tuple) -> dict[str, list[tuple]]:
    """Return what many draws of one cell give."""
    function, arguments, draws = task
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    values = defaultdict(list)
    for place in draws:
        for name, result in function(*arguments, place).items():
            values[name].append(result)
    return values


def cell(draws: list[tuple]) -> dict:
    """Return the coverage of the draws' own mean and median by the intervals that were given."""
    value, low, high = (np.array(part, dtype=float) for part in list(zip(*draws, strict=True))[:3])
    given, sound = np.isfinite(low) & np.isfinite(high), np.isfinite(value)
    reasons = sorted({reason for *_, reason in draws if reason})
    if not sound.any():
        return {"draws": len(draws), "given": 0.0, "reason": "; ".join(reasons)}
    mean, median = value[sound].mean(), np.median(value[sound])
    held = (
        [float(np.mean((low <= x) & (x <= high), where=given)) for x in (mean, median)] if given.any() else [None] * 2
    )
    missed = [float(np.mean(miss, where=given)) if given.any() else None for miss in (mean < low, mean > high)]
    width = float(np.median((high - low)[given]) / value[sound].std()) if given.any() and value[sound].std() else None
    summary = {"coverage": held[0], "of_median": held[1], "below": missed[0], "above": missed[1], "width": width}
    summary = {name: x if x is None else round(x, 4) for name, x in summary.items()}
    return {
        "draws": len(draws),
        "given": float(given.mean()),
        "mean": float(mean),
        **summary,
        "reason": "; ".join(reasons),
    }


def run(tasks: dict[str, tuple], draws: int, jobs: int) -> dict[str, dict]:
    """Return the cells `name | quantity` of all tasks."""
    size = max(1, min(25, draws * len(tasks) // (4 * jobs)))
    parts = [
        (name, (*task, range(start, min(start + size, draws))))
        for start in range(0, draws, size)
        for name, task in tasks.items()
    ]
    collected = defaultdict(list)
    with ProcessPoolExecutor(jobs, mp_context=get_context("fork")) as pool:
        for (name, _), values in zip(parts, pool.map(work, [task for _, task in parts]), strict=True):
            for quantity, results in values.items():
                collected[f"{name} | {quantity}"].extend(results)
    return {name: cell(results) for name, results in collected.items()}


def show(cells: dict[str, dict]) -> None:
    """Print the cells that do not hold, and how many do."""
    bad = {name: c for name, c in cells.items() if c["given"] and not 0.9 <= c["coverage"] <= 0.98}
    for name, c in sorted(bad.items(), key=lambda item: item[1]["coverage"]):
        print(f"{c['coverage']:6.3f} of {c['given']:4.2f}  (median {c['of_median']:.3f}, width {c['width']})  {name}")
    none = sum(not c["given"] for c in cells.values())
    print(
        f"{len(cells)} cells: {len(cells) - len(bad) - none} hold 90-98 %, {len(bad)} do not, {none} have no interval"
    )


HEAD = """# Calibration

How often the 95 % intervals hold, made by `make calibrate` (benchmarks/calibration.py): do not edit. A cell is the
share, in per cent, of the intervals that hold the mean of the values of all draws, which is the estimator's expectation
for that many windows; in brackets, where fewer than 99 % of the draws have an interval, the share that has one. A dash:
no interval, for the reason that its row in the record gives (fewer than 8 windows, say). Bold: outside 90 to 98 %.
Where the interval holds in 96 % of all cases, 400 draws show 98.5 % or more once in 300, 200 draws once in 25.
"""


def share(c: dict | None) -> str:
    """Return a cell as the page shows it: in bold where it is outside 90 to 98 %."""
    if not c or not c["given"]:
        return "-"
    text = f"{100 * c['coverage']:.0f}"
    text = text if 90 <= int(text) <= 98 else f"**{text}**"
    return text + (f" [{100 * c['given']:.0f}]" if c["given"] < 0.99 else "")


def table(cells: dict[str, dict], rows: list[str], columns: list[str], name: str) -> str:
    """Return a Markdown table of the cells `name` (with places for row and column)."""
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[row, *(share(cells.get(name.format(row=row, column=column))) for column in columns)] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def page(results: list[dict]) -> str:
    """Return docs/calibration.md from what `--json` wrote of both parts."""
    parts = [HEAD]
    for result in results:
        if result["part"] == "phases":
            parts.append(phases.tables(result["cells"]))
            continue
        names = [name.split(" | ") for name in result["cells"]]
        draws = max(c["draws"] for c in result["cells"].values())
        if result["part"] == "synthetic":
            parts.append(f"## Drawn states\n\n{draws} draws a cell; width {WIDTH}, windows of {LENGTH} tokens.\n")
            quantities = list(dict.fromkeys(name[2] for name in names))
            counts = list(dict.fromkeys(name[1] for name in names))
            for kind in dict.fromkeys(name[0] for name in names):
                parts.append(f"### {kind.capitalize()}: {KINDS[kind]}\n\nBy the number of windows.\n")
                parts.append(table(result["cells"], quantities, counts, kind + " | {column} | {row}"))
        else:
            parts.append(f"## Trained twins\n\n{draws} disjoint sets of 32 windows of held-out text, by layer.\n")
            for run in dict.fromkeys(name[0] for name in names):
                of_run = [name for name in names if name[0] == run]
                quantities, layers = (list(dict.fromkeys(name[i] for name in of_run)) for i in (1, 2))
                parts.append(f"### {run}\n")
                parts.append(table(result["cells"], quantities, sorted(layers), run + " | {row} | {column}"))
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["synthetic", "real", "phases"], default="synthetic")
    parser.add_argument("--repetitions", type=int, default=400, help="draws of a cell, but of the real part")
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--windows", nargs="+", type=int, default=WINDOWS)
    parser.add_argument("--metrics", nargs="+", help="these alone")
    parser.add_argument("--runs", nargs="+", help="folders of trained runs, for the real part")
    parser.add_argument("--text", help="a .txt, or a corpus that `dynamics data` takes, for the real part")
    parser.add_argument("--sets", type=int, default=200, help="disjoint sets of 32 windows, for the real part")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--read", type=Path, nargs="+", help="what `--json` wrote: nothing is measured")
    parser.add_argument("--page", type=Path, help="write the page from `--read`")
    options = parser.parse_args()
    if options.read:
        results = [json.loads(path.read_text()) for path in options.read]
        for result in results:
            if result["part"] != "phases":
                show(result["cells"])
        if options.page:
            options.page.write_text(page(results))
        return
    if options.part == "phases":
        cells = phases.cells(options.repetitions, options.jobs)
        print(phases.tables(cells))
    elif options.part == "real":
        tasks = {
            Path(run).name: (real_values, (run, options.text, options.sets, options.metrics)) for run in options.runs
        }
        cells = run(tasks, options.sets, options.jobs)
    else:
        for site, entries in ALL.sites.items() if options.metrics else ():
            ALL.sites[site] = [entry for entry in entries if entry.name in options.metrics]
        pairs = itertools.product(options.kinds, options.windows)
        tasks = {f"{kind} | {windows}": (synthetic_values, (kind, windows)) for kind, windows in pairs}
        cells = run(tasks, options.repetitions, options.jobs)
    if options.part != "phases":
        show(cells)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps({"part": options.part, "cells": cells}, indent=1) + "\n")


if __name__ == "__main__":
    main()
