"""What a run was made of: versions, commit, hardware."""

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("dynamics", "torch", "lightning", "transformers", "tokenizers", "torchmetrics", "scikit-dimension"),
    *("numpy", "wandb", "mwparserfromhell"),
)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git(*command: str) -> str | None:
    """Return what git says of the source tree; None where there is no git or no checkout."""
    try:
        done = subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _hardware() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    processor = name[1] if name else platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return ", ".join([f"{cores} x {processor}", *map(torch.cuda.get_device_name, range(torch.cuda.device_count()))])


def provenance() -> dict[str, Any]:
    """Return versions, git commit (with a `+` where files differ from it), hardware, command and time."""
    commit = _git("rev-parse", "HEAD")
    if commit and _git("status", "--porcelain", "--untracked-files=no"):
        commit += "+"
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "commit": commit,
        "hardware": _hardware(),
        "versions": {"python": platform.python_version(), **{p: _version(p) for p in PACKAGES}},
    }
