"""Write docs/metrics.md, docs/pictures/*.svg and dynamics/report/metrics.json from what the metrics say of themselves.

`python docs/make_metrics.py` writes them; `--check` writes nothing and exits with 1 where the page or the JSON is
stale, or a picture is missing. The facts are class attributes and docstrings; the other text is in docs/metrics.md.j2.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from functools import partial
from importlib import import_module
from inspect import getdoc, signature
from pathlib import Path
from typing import NamedTuple

from drawing import PICTURES, caption
from drawing.canvas import draw
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dynamics import metrics
from dynamics.metrics.streaming import Metric, Windowed

DOCS = Path(__file__).parent
PAGE, FOLDER = DOCS / "metrics.md", DOCS / "pictures"
DESCRIPTIONS = DOCS.parent / "dynamics" / "report" / "metrics.json"
"""What the report, which imports no torch, reads for runs that do not describe their metrics."""
SECTIONS = ("Formula", "Pitfalls", "Interval")
"""Of a docstring, in this order. Without the last one a metric has the interval of `Windowed`."""

KINDS = {
    "residual": "States",
    "query": "Queries and keys",
    "attention": "Attention",
    "weight": "Weights",
    "pair": "Pairs of layers",
}
"""Headings, by the first site of a metric."""

TYPESETTING = (
    (r"&", "&amp;"),
    (r"<", "&lt;"),
    (r"([*\[\]|])", r"\\\1"),
    (r"(?<![A-Za-z])sum(?=_| (?:\w\b|sigma|\\\|))", "Σ"),
    (r"(?<![A-Za-z])sigma(?![A-Za-z])", "σ"),  # noqa: RUF001
    (r"(?<![A-Za-z])mu(?![A-Za-z])", "μ"),
    (r"(?<![A-Za-z])sqrt(?: (?=\w)|(?=\())", "√"),
    (r"(?<=\s)-(?=\s)|(?<![\w)])-(?=[\dΣ]|log)", "−"),  # noqa: RUF001
    (r"_(?:\{([^}]*)\}|(\w+))", r"<sub>\1\2</sub>"),
    (r"\^(?:\{([^}]*)\}|([+\w]+))", r"<sup>\1\2</sup>"),
    (r"arXiv (\d{4}\.\d{4,5})", r"[arXiv \1](https://arxiv.org/abs/\1)"),
)
"""How a docstring's formulas and papers are written in Markdown, in this order."""


class Entry(NamedTuple):
    """What the page says of one metric. `default` maps its sites to what of it the default suite measures there."""

    name: str
    metric: Metric
    summary: str
    range: str
    sections: dict[str, str]
    options: dict[str, str]
    defaults: list[str]
    variants: list[str]
    default: dict[str, list[str]]
    caption: str

    @property
    def chosen(self) -> list[str]:
        """The sites at which the default suite measures it."""
        return [site for site, names in self.default.items() if self.name in names]

    @property
    def extra(self) -> list[str]:
        """Its variants in the default suite."""
        return sorted({name for names in self.default.values() for name in names} - {self.name})


class DocstringError(ValueError):
    """A docstring without the structure that the page is made from."""


def parse(name: str, docstring: str) -> tuple[str, dict[str, str]]:
    """Return the summary and the sections of a quantity's docstring.

    Raises:
        DocstringError: after the summary there are not exactly the `SECTIONS`, with their further lines indented;
            or there is no doctest.
    """
    summary, block, rest = (*docstring.split("\n\n", 2), "", "")[:3]
    sections: dict[str, list[str]] = {}
    for line in block.splitlines():
        if match := re.match(r"([A-Z]\w+): (.+)", line):
            sections[match[1]] = [match[2]]
        elif sections and line.startswith("    "):
            sections[next(reversed(sections))].append(line.strip())
        else:
            raise DocstringError(f"{name}: a line is neither `Section: text` nor indented: {line.strip()}")
    if tuple(sections) not in (SECTIONS, SECTIONS[:-1]):
        raise DocstringError(f"{name}: its sections are {', '.join(sections)} and not {', '.join(SECTIONS)}")
    if ">>> " not in rest:
        raise DocstringError(f"{name}: its docstring has no >>>")
    summary = " ".join(summary.split()).removeprefix("Return ")
    return summary[:1].upper() + summary[1:], {key: " ".join(lines) for key, lines in sections.items()}


def options_of(metric: type[Metric]) -> dict[str, str]:
    """Return what the options of a metric mean, from the Args of its class and of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(metric.__mro__):
        if issubclass(base, Metric):
            _, _, block = (base.__doc__ or "").partition("    Args:\n")
            texts |= dict(re.findall(r"^        (\w+): (.+)$", block, re.MULTILINE))
    return texts


def interval_in_words(metric: Windowed) -> str:
    """Return how the interval of a windowed metric is made."""
    scale = metric.interval_scale
    on_scale = "" if scale == "identity" else f" on the {scale} scale"
    return f"windows' influence functions, Student's t{on_scale}; sampling error only."


def range_in_words(metric: Metric) -> str:
    """Return the range of a metric in words, with its unit."""
    low, high = metric.range
    words = "any" if low is None else f"{low} to {'infinity' if high is None else high}"
    return f"{words}; {metric.unit}" if metric.unit else words


def entry(name: str) -> Entry:
    """Return what the page says of one metric; raises DocstringError."""
    metric = metrics.resolve(name)
    function = getattr(import_module(f"dynamics.metrics.{name}"), name)
    summary, sections = parse(name, getdoc(function) or "")
    meanings = options_of(type(metric))
    parameters = signature(type(metric)).parameters
    if "Interval" not in sections and not isinstance(metric, Windowed):
        raise DocstringError(f"{name}: its sections are Formula, Pitfalls and not {', '.join(SECTIONS)}")
    if unknown := parameters.keys() - meanings.keys():
        raise DocstringError(f"{name}: no docstring of its class or bases says what {', '.join(sorted(unknown))} means")
    if isinstance(metric, Windowed):
        sections.setdefault("Interval", interval_in_words(metric))
    options = {key: meanings[key] for key in parameters}
    defaults = [f"{key}: {json.dumps(x.default).strip(chr(34))}" for key, x in parameters.items()]
    others, default = sorted(metrics.variants(name)), metrics.default()
    chosen = {site: [v for v in (name, *others) if v in default.get(site, ())] for site in metric.sites}
    picture = caption(name) if name in PICTURES else ""
    return Entry(name, metric, summary, range_in_words(metric), sections, options, defaults, others, chosen, picture)


def entries() -> list[Entry]:
    """Return the entry of every metric; raises DocstringError with a line for every docstring that deviates."""
    members, errors = [], []
    for name in metrics.names():
        try:
            members.append(entry(name))
        except DocstringError as error:
            errors.append(str(error))
    if errors:
        raise DocstringError("\n".join(errors))
    return members


def typeset(text: str, here: str = "", *, sections: dict[str, str]) -> str:
    """Return a docstring's text as Markdown, with links to metrics and papers.

    `sections` maps what may stand in backticks to the metric whose section explains it; `here` links to nothing.

    >>> typeset("sigma_1^2, as `a` has it.", sections={"a": "a"})
    'σ<sub>1</sub><sup>2</sup>, as [`a`](#a) has it.'
    """
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if i % 2 == 0:
            for pattern, replacement in TYPESETTING:
                part = re.sub(pattern, replacement, part)
            parts[i] = part
        elif sections.get(part.strip("`"), here) != here:
            parts[i] = f"[{part}](#{sections[part.strip('`')]})"
    return "".join(parts)


def code(words: Iterable[str]) -> str:
    """Return words as inline code, with commas."""
    return ", ".join(f"`{word}`" for word in words)


def page() -> str:
    """Return the whole page."""
    members = entries()
    environment = Environment(
        loader=FileSystemLoader(DOCS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    sections = {name: e.name for e in members for name in (e.name, *e.variants)}
    environment.filters |= {"typeset": partial(typeset, sections=sections), "code": code}
    kinds = {kind: [] for kind in (*KINDS.values(), "Others")}
    for e in members:
        kinds[KINDS.get(e.metric.sites[0], "Others")].append(e)
    text = environment.get_template("metrics.md.j2").render(
        kinds=[(kind, of_kind) for kind, of_kind in kinds.items() if of_kind],
        options={option: text for e in members for option, text in e.options.items()},
        own=(DOCS / "own_metric.py").read_text(),
    )
    return text.rstrip() + "\n"


def descriptions() -> str:
    """Return the description of every metric and variant, as JSON."""
    return json.dumps(metrics.describe(), indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the page, its pictures and the JSON, or check them. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file is stale")
    args = parser.parse_args()
    try:
        texts = {PAGE: page(), DESCRIPTIONS: descriptions()}
    except DocstringError as error:
        print(error, file=sys.stderr)
        return 1
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    if args.check:
        stale += [path for name in PICTURES if not (path := FOLDER / f"{name}.svg").is_file()]
        for path in stale:
            print(f"{path} is stale: run `python docs/make_metrics.py`.", file=sys.stderr)
    else:
        for path in stale:
            path.write_text(texts[path])
        FOLDER.mkdir(exist_ok=True)
        for old in FOLDER.glob("*.svg"):
            old.unlink()
        for name, picture in PICTURES.items():
            draw(picture, FOLDER / f"{name}.svg")
    return int(args.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
