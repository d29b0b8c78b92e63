"""One self-contained HTML page: `write(runs, out)`."""

import base64
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dynamics import files
from dynamics.errors import InputError
from dynamics.report import browser, effects, summary
from dynamics.report.blocks import Compared, Figure, PageBlock, Section, as_json
from dynamics.report.forks import marked
from dynamics.report.plot.style import DARK, TEMPLATE, looks
from dynamics.report.sections import SECTIONS, settings
from dynamics.report.study import Study, load
from dynamics.report.tables import SEEDS

TEMPLATES = Path(__file__).parent / "templates"
# A third of all of plotly.js: what has two axes. From the npm package plotly.js-cartesian-dist-min, of the version that
# the package plotly is made with.
PLOTLY = "plotly-cartesian.min.js.gz"
KINDS = ("html", "pdf", "png")
HEADING = "Geometry through training"
# Of one kind of runs.
HEADINGS = {
    **{"task": "Geometry through fine-tuning", "scan": "Geometry of models", "probe": "Untrained blocks"},
    **{"cone": "Inside the cone", "audit": "Audit"},
}


def write(runs: Sequence[str | Path], out: Path, kind: str = "html") -> Path:
    """Write the report on `runs` (names or paths, each with `NAME=` before it if it is to be called that) to `out`.

    Args:
        runs: what is compared.
        out: the file.
        kind: `html`, `pdf` or `png`; the last two take a browser.

    Returns:
        The file.

    Raises:
        InputError: a run is missing, none has rows, `out` cannot be written or there is no browser. Nothing is left
            half written.
        Failure: the browser failed.
    """
    out = Path(out)
    refuse_unwritable(out, kind)
    if kind != "html":
        browser.find(kind)
    html = page(load(runs))
    return save(html.encode() if kind == "html" else browser.convert(html, kind), out)


def refuse_unwritable(out: Path, kind: str = "html") -> None:
    """Refuse a file that no page of a kind can be written to, before one is made."""
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name a file in it, for example {out / 'report.html'}.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; make it first.")
    if (named := out.suffix.removeprefix(".")) in KINDS and named != kind:
        raise InputError(f"--out {out} is not {kind}: add --format {named}, or name a file that ends with .{kind}.")


def save(made: bytes, out: Path) -> Path:
    """Write a page to `out`, whole or not at all, and return `out`."""
    try:
        files.write_atomically(out, lambda file: file.write(made), digest=False)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name a file elsewhere.") from error
    return out


def page(study: Study) -> str:
    """Return the page as text: the answer, the main figure, and every section that applies."""
    drawn = [section for module in SECTIONS if module.applies(study) and (section := module.section(study))]
    main, sections = _main(marked(drawn, study.runs))
    styles = looks(study.arm_names)
    compared = [Compared(arm.name, arm.about, arm.runs, styles[arm.name]) for arm in study.arms]
    compared += [entry for section in drawn for entry in section.compared]
    kinds = {info.kind if not info.to_dict().get("task") else "task" for info in study.runs.values()}
    heading = HEADINGS.get(kinds.pop(), HEADING) if len(kinds) == 1 else HEADING
    findings = [*effects.sentences(study), *(finding for section in drawn for finding in section.findings)]
    names = "; ".join(entry.name for entry in compared)
    notes, first = summary.notes(study), [*main, *_tables(study)]
    return render(f"{heading}: {names}", heading, compared, findings, notes, first, sections)


def render(
    title: str, heading: str, compared: Sequence[Compared], findings: Sequence[str], notes: Sequence[str],
    first: Sequence[PageBlock], sections: Sequence[Section],
) -> str:  # fmt: skip
    """Return a page as text: its head (what is compared, findings, notes, the `first` blocks) and its sections."""
    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=title,
        heading=heading,
        compared=compared,
        findings=findings,
        notes=notes,
        first=first,
        sections=sections,
        plotly=base64.b64encode((TEMPLATES / PLOTLY).read_bytes()).decode(),
        template=as_json(TEMPLATE.to_plotly_json()),
        themed=DARK,
    )


def _main(sections: list[Section]) -> tuple[list[Figure], list[Section]]:
    """Return the figure that stands at the head of the page, the first that is open, and the sections without it."""
    for i, section in enumerate(sections):
        for block in section.blocks:
            if isinstance(block, Figure) and not block.fold:
                rest = replace(section, blocks=[other for other in section.blocks if other is not block])
                return [block], [*sections[:i], *([rest] if rest.blocks else []), *sections[i + 1 :]]
    return [], sections


def _tables(study: Study) -> list[PageBlock]:
    """Return the key numbers, how they differ (first, where there are seeds), and what differs between the runs."""
    if not study.arms:
        return []
    numbers = summary.by_arm(study, summary.key_numbers(study), "In numbers", style="numbers")
    numbers, differences = replace(numbers, note=summary.legend(study, numbers)), effects.table(study)
    several = any(len(arm.seeds) >= SEEDS for arm in study.arms)
    first = [differences, numbers] if several else [numbers, differences]
    return [*filter(None, (*first, settings.differences(study)))]
