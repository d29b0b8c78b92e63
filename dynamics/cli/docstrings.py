"""Help texts from docstrings, and defaults from sources whose import would take seconds. No torch here."""

import ast
from pathlib import Path
from typing import Any, NamedTuple

from docstring_parser import DocstringStyle, parse

ROOT = Path(__file__).resolve().parents[2]


class Doc(NamedTuple):
    """The parts of a docstring that help is made of: text, parameters by name, and lines of examples."""

    summary: str
    description: str
    parameters: dict[str, str]
    examples: list[str]


def read_doc(docstring: str | None) -> Doc:
    """Read a docstring in Google's style; one line for each parameter, without a full stop at its end."""
    doc = parse(docstring or "", style=DocstringStyle.GOOGLE)
    texts = {item.arg_name: " ".join((item.description or "").replace("`", "").split()) for item in doc.params}
    examples = [line for example in doc.examples for line in (example.description or "").splitlines()]
    return Doc(
        doc.short_description or "",
        "\n\n".join(filter(None, [doc.short_description, doc.long_description])),
        {name: text if text.endswith("..") else text.removesuffix(".") for name, text in texts.items()},
        examples,
    )


def read_parameters(class_path: str) -> dict[str, tuple[Any, str]]:
    """Return default (None where it is not written out) and help text of the parameters of a class of this package.

    >>> read_parameters("dynamics.data.windows.CharData")["context"][0]
    256
    """
    module, _, class_name = class_path.rpartition(".")
    tree = ast.parse((ROOT / module.replace(".", "/")).with_suffix(".py").read_text())
    (owner,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == class_name)
    (init,) = (node for node in owner.body if isinstance(node, ast.FunctionDef) and node.name == "__init__")
    texts = read_doc(ast.get_docstring(owner)).parameters
    names = [argument.arg for argument in init.args.args[1:]]
    defaults = [_literal(node) for node in init.args.defaults]
    defaults = [None] * (len(names) - len(defaults)) + defaults
    return {name: (default, texts.get(name, "")) for name, default in zip(names, defaults, strict=True)}


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
