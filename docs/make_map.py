"""Write the map of the package into docs/architecture.md: one line a file, from its docstring."""

import ast
from pathlib import Path

from marks import between

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "dynamics"
PAGE = DOCS / "architecture.md"


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, or of the function with the module's name (a metric)."""
    module = ast.parse(path.read_text())
    functions = (node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == path.stem)
    texts = filter(None, map(ast.get_docstring, (module, *functions)))
    text = next(texts, "").partition("\n")[0].removeprefix("Return ")
    return text[:1].upper() + text[1:]


def package_map() -> str:
    """Return the map: a heading for each room, a line for each file."""
    rooms: dict[str, list[Path]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        rooms.setdefault(str(path.parent.relative_to(PACKAGE.parent)), []).append(path)
    lines = ["## Map", "", "A folder's line is the docstring of its `__init__.py`, which may hold code.", ""]
    for room, paths in rooms.items():
        about = summary(PACKAGE.parent / room / "__init__.py")
        lines += [f"**{room}/**" + (f" {about}" if about else ""), ""]
        lines += [f"- `{path.name}`: {summary(path)}" for path in paths if path.name != "__init__.py"]
        lines.append("")
    return "\n".join(lines)


def page() -> str:
    """Return the page with the map as it is now."""
    return between(PAGE.read_text(), "map", package_map())


if __name__ == "__main__":
    PAGE.write_text(page())
