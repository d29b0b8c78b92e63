"""Imports run one way: a room imports only what stands below it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dynamics.metrics import names

PACKAGE = Path(__file__).resolve().parents[1] / "dynamics"

BELOW = {
    "errors": set(),
    "allowed": {"errors"},
    "files": set(),
    "provenance": set(),
    "schedule": {"errors"},
    "readers": {"errors", "files"},
    "config": {"errors", "readers"},
    "parsing": {"errors", "allowed"},
    "run_info": set(),
    "lock": {"errors"},
    "parent": set(),
    "runs": {"errors", "files", "lock", "readers", "run_info"},
    "record": {"errors", "files", "runs"},
    "lineage": {"files", "run_info", "runs", "record"},
    "missing": set(),
    "sharded": set(),
    "verify": {"errors", "files", "readers", "config", "run_info", "runs", "record"},
    "scales": set(),
    "changepoints": set(),
    "metrics": {"allowed", "errors", "scales"},
    "capture": {"errors", "sharded"},
    "data": {"errors", "files", "lock", "parent", "readers"},
    "measure": {"errors", "files", "readers", "schedule", "record", "capture", "metrics"},
    "lightning_compat": {"errors"},
    "models": {"errors", "readers", "runs", "data", "capture", "metrics", "lightning_compat", "sharded"},
    "loading": {"allowed", "errors", "runs", "capture", "data", "models"},
    "loggers": {"errors", "files", "run_info", "runs", "record", "report"},
    "report": {"errors", "files", "run_info", "runs", "record", "lineage", "missing", "scales", "changepoints"},
    "claims": {"errors", "files", "run_info", "runs", "record", "report", "changepoints"},
    "watch": {"errors", "files", "lock", "run_info", "runs", "record", "lineage", "report"},
    "training": {
        *("errors", "files", "schedule", "config", "parsing", "provenance", "runs", "record", "measure", "loggers"),
        *("lightning_compat", "run_info", "allowed", "lock", "readers", "lineage", "capture", "metrics", "sharded"),
    },
    "experiments": {
        *("errors", "files", "config", "provenance", "runs", "record", "metrics", "capture", "measure"),
        *("models", "loading", "run_info", "data", "allowed", "lock", "parent", "readers", "training"),
    },
    "cli": {
        *("allowed", "errors", "config", "parsing", "runs", "record", "data", "report", "loading", "loggers"),
        *("experiments", "training", "verify", "watch", "missing", "claims", "parent"),
    },
}
"""What each room may import. A room that is missing here fails: decide where it stands."""

WITHOUT_TORCH = (
    *(
        "errors",
        "allowed",
        "files",
        "lock",
        "parent",
        "readers",
        "schedule",
        "config",
        "parsing",
        "runs",
        "record",
        "lineage",
    ),
    *("verify", "missing", "scales", "changepoints", "report"),
    *("claims", "watch", "cli"),
)
HEAVY = {"torch", "lightning", "transformers", "torchmetrics"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of the modules that a file imports, lazily or not."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    here = room(path)
    if here in ("__init__", "__main__"):
        return
    imported = {name.split(".")[1] for name in imports(path) if name.startswith("dynamics.")}
    assert imported - {here} <= BELOW[here]


def test_every_grant_is_used():
    used: dict[str, set[str]] = {name: set() for name in BELOW}
    for path in FILES:
        if room(path) in BELOW:
            used[room(path)] |= {name.split(".")[1] for name in imports(path) if name.startswith("dynamics.")}
    assert {name: below - used[name] for name, below in BELOW.items() if below - used[name]} == {}


def test_the_table_has_no_cycle():
    def reach(name: str, seen: tuple[str, ...] = ()) -> None:
        assert name not in seen, f"cycle: {seen}"
        for below in BELOW.get(name, ()):
            reach(below, (*seen, name))

    for name in BELOW:
        reach(name)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_without_torch_import_none(path):
    if room(path) in WITHOUT_TORCH:
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY


def test_files_that_claim_no_torch_load_none():
    claims = [path for path in FILES if "no torch" in (ast.get_docstring(ast.parse(path.read_text())) or "").lower()]
    names = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in claims]
    assert {"dynamics.record", "dynamics.runs", "dynamics.schedule"} <= set(names)
    code = f"import sys, importlib\n[importlib.import_module(n) for n in {names}]\nprint({HEAVY} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.stdout.strip() == "set()", done.stdout + done.stderr


def test_no_two_classes_bear_one_name():
    names = [
        node.name for path in FILES for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)
    ]
    assert {name for name in names if names.count(name) > 1} == set()


def test_files_and_the_package_stay_small():
    lines = {path: len(path.read_text().splitlines()) for path in FILES}
    assert {path.name: count for path, count in lines.items() if count > 300} == {}
    assert sum(lines.values()) <= 34_000


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nobody_imports_a_concrete_metric(path):
    concrete = set(names())
    if room(path) != "metrics":
        imported = {name.split(".")[2] for name in imports(path) if name.startswith("dynamics.metrics.")}
        assert not imported & concrete
