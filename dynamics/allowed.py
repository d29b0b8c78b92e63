"""What a file may name: classes of packages that are allowed. No torch here.

A run's folder, a checkpoint or a model may come from anybody, and a module runs as soon as it is imported: what such a
file names is looked up here before anything is imported, and used only if it is a class of the kind that is expected.
What the user writes (the command line, a configuration of their own) is trusted.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings  # to put them back: the library only adds to them

from dynamics.errors import InputError

PACKAGES = ("dynamics", "torch", "lightning", "torchmetrics", "transformers")
T = TypeVar("T")


class OwnModules(MetaPathFinder):
    """Finds modules in the current folder: those that the user names, and what these import.

    It is not searched for others: libraries try to import dozens of packages that may be missing, and the current
    folder may be somebody else's.
    """

    def __init__(self) -> None:
        self._names: set[str] = set()  # that the user has named
        self._found: set[str] = set()  # in the current folder

    def add(self, path: str) -> None:
        """Allow the module that an import path begins with."""
        self._names.add(path.partition(".")[0])
        if self not in sys.meta_path:
            sys.meta_path.append(self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if path is not None or not (name in self._names or _importer() in self._found):
            return None
        if spec := PathFinder.find_spec(name, [str(Path.cwd())]):
            self._found.add(name)
        return spec


def _importer() -> str:
    """Return the name of the outermost package of the module whose import statement is at work."""
    frame = sys._getframe(2)
    while frame.f_back and str(frame.f_globals.get("__name__")).startswith("importlib"):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__")).partition(".")[0]


own_modules = OwnModules()


def refuse_foreign(path: str, where: str, packages: Sequence[str] = ()) -> None:
    """Refuse an import path that lies in none of the allowed packages, nor in `packages`.

    >>> refuse_foreign("torch.nn.Linear", "config.yaml")
    >>> refuse_foreign("os.system", "config.yaml")
    Traceback (most recent call last):
    dynamics.errors.InputError: config.yaml: os.system is not imported: ... add --allow-classes os if you trust it.
    """
    if not any(f"{path}.".startswith(f"{package}.") for package in (*PACKAGES, *packages)):
        raise InputError(f"{where}: {refusal(path)}")


def refusal(path: str) -> str:
    """Return why an import path is refused, and how to allow it."""
    return (
        f"{path} is not imported: a file may only name classes of {', '.join(PACKAGES)}; add --allow-classes "
        f"{path.partition('.')[0]} if you trust it."
    )


def import_class(path: str, kind: type[T], where: str, packages: Sequence[str] = ()) -> type[T]:
    """Return the class that a file names, a subclass of `kind`; refuse anything else, before it is imported if foreign.

    Args:
        where: what names it, for the sentence.
        packages: that are allowed besides our own.
    """
    refuse_foreign(path, where, packages)
    found = load_class(path, kind, where)
    refuse_foreign(f"{found.__module__}.{found.__qualname__}", where, packages)  # a module also holds what it imports
    return found


def load_class(path: str, kind: type[T], where: str) -> type[T]:
    """Return the subclass of `kind` at a path that the user has named; `InputError` about `where` for anything else."""
    own_modules.add(path)
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"{where}: {path} cannot be imported ({error}).") from error
    if not (isinstance(found, type) and issubclass(found, kind)):
        raise InputError(f"{where}: {path} is no {kind.__name__}.")
    return found


def add_named(text: str) -> None:
    """Let the modules be found that the user names in a configuration or in words of the command line."""
    for name in re.findall(r"(?<![\w.-])([A-Za-z_]\w*)(?:\.[A-Za-z_]\w*)+", text):
        own_modules.add(name)


@contextmanager
def parsing(packages: Sequence[str] | None) -> Iterator[None]:
    """Parse with jsonargparse, which imports what values name: from the allowed packages and `packages` alone.

    With None, values are the user's own: any module but those of the standard library that run or load code. Never is
    a class made where a plain value is expected.
    """
    before = dict(parsing_settings)
    for package in packages or ():
        own_modules.add(package)
    denied, allowed = ([], []) if packages is None else (["*"], [*PACKAGES, *packages])
    try:
        set_parsing_settings(
            instantiate_subclass_spec_in_any=False, import_path_denylist=denied, import_path_allowlist=allowed
        )
    except ValueError as error:
        raise InputError(f"--allow-classes must name a package that can be allowed (got {packages}).") from error
    try:
        yield
    finally:
        parsing_settings.update(before)


def refuse_functions(value: Any, where: str) -> None:
    """Refuse functions among parsed values: those that a file names would be called."""
    if isinstance(value, Mapping | Namespace):
        for part in vars(value).values() if isinstance(value, Namespace) else value.values():
            refuse_functions(part, where)
    elif isinstance(value, list | tuple):
        for part in value:
            refuse_functions(part, where)
    elif isinstance(value, Callable) and not isinstance(value, type):  # type: ignore[arg-type]
        raise InputError(f"{where}: {value.__module__}.{value.__name__} is a function: a file may only name classes.")


def is_of_a_run(path: Path) -> bool:
    """Return whether a file lies in a run's folder: then whoever made the run wrote it, not the user."""
    return (path.parent / "run.json").is_file() or (path.parent / "record").is_dir()
