"""How long the live page takes over many runs, and what it costs while it is open.

    python benchmarks/watch.py [--runs 200] [--steps 40] [--layers 13] [--metrics 12] [--overlaid 20]
                               [--folder FOLDER] [--json FILE]

Records are written to FOLDER/checkpoints (a temporary folder when missing; runs that are there already are kept). Each
number is that of a server that has just been started and has read nothing: the seconds until the list of all runs has
arrived, until the data of the overlaid runs have, and what of these the server has computed; then, with a Chromium,
until each has been drawn, counted from the moment the address is opened, and for a move of the slider. `idle` is the
share of a core that the server needs while a page is open and nothing happens.
"""

import argparse
import asyncio
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from dynamics.files import write_atomically  # noqa: E402
from dynamics.metrics import names  # noqa: E402
from dynamics.record import BLOCK, Record, Row, read_part  # noqa: E402

IDLE_SECONDS = 10


def write_runs(checkpoints: Path, runs: int, steps: int, layers: int, metrics: int) -> None:
    """Write records of finished runs, each with its own values, measured every 50 updates."""
    measured = 50 * np.arange(1, steps + 1)
    chosen = names()[:metrics]
    for number in range(runs):
        folder = checkpoints / f"run-{number:03d}"
        if (folder / "run.json").exists():
            continue
        noise = np.random.default_rng(number)
        out = Record(folder)
        rows = [
            Row(folder.name, "", "", 0, "residual", layer, -1, metric, 0.5, 0.4, 0.6, 4096, 32)
            for metric in chosen
            for layer in range(layers)
        ]
        out.write(int(measured[0]), rows)
        (first,) = (folder / "record").glob("*.parquet")
        part = read_part(first)
        for step in measured:  # as `Record.write` does, but for the step and the values
            values = noise.random(len(rows))
            columns = {"step": np.full(len(rows), step), "value": values, "low": values - 0.1, "high": values + 0.1}
            for name, column in columns.items():
                part = part.set_column(part.column_names.index(name), name, pa.array(column))
            path = folder / "record" / f"geometry-{step:010d}.parquet"
            write_atomically(path, partial(pq.write_table, part))
        last = int(measured[-1])
        for start in range(0, last, BLOCK):
            losses = [(step, 2 + 3 / np.sqrt(step)) for step in range(start + 1, min(start + BLOCK, last) + 1)]
            curves = [(step, "train", "loss", loss) for step, loss in losses]
            curves += [
                (losses[-1][0], "validation", "loss", losses[-1][1]),
                (losses[-1][0], "cost", "step_seconds", 0.1),
            ]
            out.add_curves(Row(folder.name, "", "", step, site, -1, -1, *rest) for step, site, *rest in curves)
        out.flush()
        info = {"run": folder.name, "kind": "fit", "status": "done", "schema": 1, "label": f"arm {number % 7}"}
        info |= {"layers": layers - 1, "seed": number, "max_steps": last, "width": 64 + number}
        (folder / "run.json").write_text(json.dumps(info))


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, int]]:
    """Serve the runs of a folder with a process of its own; yields its address and number."""
    command = [sys.executable, "-m", "dynamics", "watch", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        address = next(found[0] for line in process.stdout if (found := re.search(r"http://[\d.:]+", line)))
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def spent(process: int) -> float:
    """Return the seconds that a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def answer(name: str, address: str, process: int, path: str) -> dict[str, float]:
    """Print and return how long an answer takes (of events, the first one), and what of that the server computes."""
    started, before = time.monotonic(), spent(process)
    with urllib.request.urlopen(f"{address}/{path}") as stream:
        size = len(stream.readline() if path.endswith("events") else stream.read())
    seconds, computed = time.monotonic() - started, spent(process) - before
    print(f"{name}: {seconds:.2f} s, of which computed {computed:.2f} s, {size / 1e6:.2f} MB")
    return {name: seconds, f"{name} computed": computed}


def idle_share(address: str, process: int) -> float:
    """Return the share of a core that a server needs while a page is open and nothing happens."""
    with urllib.request.urlopen(f"{address}/api/events") as stream:
        stream.readline()
        time.sleep(2)
        before = spent(process)
        time.sleep(IDLE_SECONDS)
        return (spent(process) - before) / IDLE_SECONDS


def drawing(address: str, chosen: list[str]) -> dict[str, float]:
    """Return how long a browser takes, in seconds, to show the list, to show the overlay, and to move the slider."""
    from tests.watch.browser import Browser, in_browser

    move = (
        "(() => { const slider = byId('slider'), start = performance.now();"
        " slider.value = {}; slider.dispatchEvent(new Event('input')); return new Promise((done) =>"
        " requestAnimationFrame(() => setTimeout(() => done(performance.now() - start)))); })()"
    )

    async def visit(browser: Browser) -> dict[str, float]:
        await browser.open(f"{address}/")
        started = time.monotonic()
        await browser.until("document.getElementById('rows')?.children.length > 0")
        listed = time.monotonic() - started
        await browser.open(f"{address}/#{'&'.join(f'run={key}' for key in chosen)}")
        shown = await browser.until("document.documentElement?.dataset.drawn")
        await asyncio.sleep(1)
        moves = [await browser.run(move.replace("{}", str(i))) for i in range(10, 20)]
        return {"list drawn": listed, "overlay drawn": float(shown) / 1000, "slider": float(np.median(moves)) / 1000}

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        return in_browser(Path(profile), visit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("runs", 200), ("steps", 40), ("layers", 13), ("metrics", 12), ("overlaid", 20)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.folder or Path(temporary)).resolve()
        write_runs(folder / "checkpoints", options.runs, options.steps, options.layers, options.metrics)
        chosen = [f"run-{number:03d}" for number in range(options.overlaid)]
        with serving(folder) as (address, process):
            results = answer("list", address, process, "api/events")
            results["idle"] = idle_share(address, process)
            print(f"idle: {100 * results['idle']:.1f} % of a core")
        with serving(folder) as (address, process):
            query = "&".join(f"run={key}" for key in chosen)
            results |= answer("overlay", address, process, f"api/view?{query}")
        try:
            from tests.watch.browser import CHROMIUM
        except ImportError:
            CHROMIUM = None
        if CHROMIUM:
            with serving(folder) as (address, _):
                results |= drawing(address, chosen)
            print(", ".join(f"{name}: {results[name]:.2f} s" for name in ("list drawn", "overlay drawn", "slider")))
        if options.json:
            options.json.write_text(json.dumps({"seconds": results, "options": vars(options)}, default=str, indent=1))


if __name__ == "__main__":
    main()
