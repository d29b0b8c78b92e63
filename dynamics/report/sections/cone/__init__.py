"""The cone of sentence vectors: sentences against tokens over depth, the axes, what transforms change."""

from dynamics.report.blocks import Compared, PageBlock, Section, Text
from dynamics.report.sections.cone.axes import cards, matrices, turning
from dynamics.report.sections.cone.runs import ConeRun, cone_runs, settings
from dynamics.report.sections.cone.sentences import by_corpus, finding, sentences_and_tokens, similarity, transforms
from dynamics.report.study import Study
from dynamics.run_info import ConeInfo


def applies(study: Study) -> bool:
    """Whether there is a cone among the runs."""
    return bool(study.of_kind(ConeInfo))


def section(study: Study) -> Section:
    """Return the figures of all cones, run by run."""
    runs = cone_runs(study)
    parts: list[PageBlock] = []
    for run in runs:
        parts += [Text(f"The run {run.name}", "h3")] if len(runs) > 1 else []
        parts += blocks(run)
    models = [", ".join(model.name for model in run.displayed) for run in runs]
    compared = [Compared(run.name, f"sentence encoders {names}") for run, names in zip(runs, models, strict=True)]
    findings = [text for run in runs for model in run.displayed if (text := finding(run, model))]
    return Section("The cone of sentence vectors", "cone", "The cone", parts, compared, findings)


def blocks(run: ConeRun) -> list[PageBlock]:
    """Return the figures of a run in the order of the experiments, the cards of the axes among them."""
    parts: list[PageBlock | None] = [sentences_and_tokens(run), by_corpus(run), cards(run), matrices(run)]
    parts += [*turning(run), similarity(run), *transforms(run), settings(run)]
    return [block for block in parts if block is not None]
