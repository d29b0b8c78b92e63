"""One self-contained HTML page: `write(runs, out)`."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from dynamics import files
from dynamics.errors import InputError
from dynamics.report import summary
from dynamics.report.figure import Compared, as_json
from dynamics.report.plot.style import TEMPLATE, looks
from dynamics.report.sections import SECTIONS
from dynamics.report.study import Study, load

HEADING = "Geometry through training"
# Of one kind of runs.
HEADINGS = {"scan": "Geometry of models", "probe": "Untrained blocks", "cone": "Inside the cone", "audit": "Audit"}


def write(runs: Sequence[str | Path], out: Path) -> Path:
    """Write the report on `runs` (names or paths) to the file `out` and return it.

    Raises:
        InputError: a run is missing or has no rows, or `out` cannot be written. Nothing is left half written.
    """
    out = Path(out)
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: name a file in it, for example {out / 'report.html'}.")
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: the folder {out.parent} does not exist; make it first.")
    html = page(load(runs))
    try:
        files.write_text(out, html, digest=False)
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}): name a file elsewhere.") from error
    return out


def page(study: Study) -> str:
    """Return the page as text: its head, and every section that applies."""
    from plotly.offline import get_plotlyjs

    sections = [section for module in SECTIONS if module.applies(study) and (section := module.section(study))]
    styles = looks(study.arm_names)
    compared = [Compared(arm.name, arm.about, arm.runs, styles[arm.name]) for arm in study.arms]
    compared += [entry for section in sections for entry in section.compared]
    kinds = {info.kind for info in study.runs.values()}
    heading = HEADINGS.get(kinds.pop(), HEADING) if len(kinds) == 1 else HEADING
    loader = FileSystemLoader(Path(__file__).parent / "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        title=f"{heading}: {'; '.join(entry.name for entry in compared)}",
        heading=heading,
        compared=compared,
        notes=summary.notes(study),
        numbers=summary.by_arm(study, summary.key_numbers(study), style="numbers") if study.arms else None,
        sections=sections,
        plotly=get_plotlyjs(),
        template=as_json(TEMPLATE.to_plotly_json()),
    )
