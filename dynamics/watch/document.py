"""The page as text: in pieces that a server gives, or as one file with its data inside. No torch here."""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "page"
SCRIPTS = (  # in this order
    *("model.js", "charts.js", "heat.js", "list.js"),
    *("overlay.js", "tables.js", "controls.js", "main.js"),
)
STYLE, SCRIPT = '<link rel="stylesheet" href="page.css">', '<script src="page.js" defer></script>'


@cache
def page() -> str:
    """Return the page, which asks for its style, its script and its data."""
    return (FOLDER / "page.html").read_text(encoding="utf-8")


@cache
def style() -> str:
    return (FOLDER / "page.css").read_text(encoding="utf-8")


@cache
def script() -> str:
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in SCRIPTS)


def single_file(data: Mapping[str, Any]) -> str:
    """Return the page with everything inside; its policy allows this script and this style alone, and no request."""
    # In a script, `<` could end it, and two characters that JSON allows could end a line.
    text = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    policy = (
        f"default-src 'none'; script-src '{_digest(script())}'; style-src '{_digest(style())}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    head = f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n<style>{style()}</style>'
    body = f'<script type="application/json" id="data">{text}</script>\n<script>{script()}</script>'
    start, rest = page().split(STYLE)
    middle, end = rest.split(SCRIPT)
    return start + head + middle + end.replace("</body>", f"{body}\n</body>")


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
