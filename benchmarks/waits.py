"""Kernels that a training step and a measurement launch on a GPU, and how often the host waits for it.

    python benchmarks/waits.py [--arm decoder|encoder|causal-mlm|finetune] [--size tiny|base] [--only steps|measure]
                               [--lines 12] [--json FILE]

No GPU is needed: `dynamics fit` runs on the simulated device of the tests (`tests/gpu/device.py`), eagerly, in bf16.
The counts of a step are means over 50 steady ones, in which losses are read once. The first measurement of a model of
transformers also learns where weights lie; the default suite is measured. Below each phase stand the lines that cause
most.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read before torch is imported
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.gpu.device import Device
from tests.gpu.runs import ARMS, STEADY, train_and_measure, train_steps
from tests.gpu.stand_ins import Unavailable

KINDS = {"kernel": "kernels", "wait": "waits", "copy": "pageable copies", "float64": "float64", "nondeterministic": ""}
# The run in which a phase is counted, its name, and how often it happens there.
PHASES = [
    ("steps", "step", len(STEADY)),
    *(("measure", phase, 1) for phase in ("first measure", "measure", "validate", "save")),
]


def table(device: Device, phase: str, units: int, lines: int) -> dict[str, Any]:
    """Print what a phase did, by line, and return it."""
    events = {event: n for event, n in device.events.items() if event.phase == phase}
    totals = {kind: device.count(kind, phase) / units for kind in KINDS}
    print(f"{phase}: " + ", ".join(f"{n:,.6g} {KINDS[kind] or kind}" for kind, n in totals.items()))
    by_line: dict[str, dict[str, float]] = {}
    for kind in KINDS:
        counts: Counter[str] = Counter()
        for event, n in events.items():
            if event.kind == kind:
                counts[f"{event.line}  {event.name}" if kind != "kernel" else event.line] += n
        by_line[kind] = {line: n / units for line, n in counts.most_common()}
        for line, n in counts.most_common(lines):
            print(f"  {kind:16} {n / units:10,.6g}  {line}")
    return {"totals": totals, "lines": by_line}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, default="decoder")
    parser.add_argument("--size", default="tiny")
    parser.add_argument("--only", choices=("steps", "measure"))
    parser.add_argument("--lines", type=int, default=12, help="lines of each kind that are printed")
    parser.add_argument("--json", type=Path, help="write all counts to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["DYNAMICS_CACHE"] = f"{folder}/cache"
        runs = {"steps": train_steps, "measure": train_and_measure}
        try:
            devices = {
                name: run(arguments.arm, arguments.size, Path(folder))
                for name, run in runs.items()
                if arguments.only in (None, name)
            }
        except Unavailable as reason:
            sys.exit(f"waits: {reason}.")
    result = {
        phase: table(devices[name], phase, units, arguments.lines) for name, phase, units in PHASES if name in devices
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
