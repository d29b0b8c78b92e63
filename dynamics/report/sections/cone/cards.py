"""Cards: what lies at the two ends of each axis."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dynamics.report.names import estimate, number
from dynamics.report.sections.cone.runs import ConeRun, where_corpus

Texts = tuple[tuple[str, str], ...]
"""Texts with how far they project, in standard deviations."""


@dataclass(frozen=True)
class CardEnd:
    """One end of an axis: its sentences and its tokens."""

    title: str
    texts: Texts
    tokens: Texts


@dataclass(frozen=True)
class Card:
    """What an axis is: its numbers and its two ends."""

    title: str
    numbers: tuple[str, ...]
    ends: tuple[CardEnd, ...]
    note: str


@dataclass(frozen=True)
class Cards:
    """The block of all cards of a run."""

    kind: ClassVar[str] = "cards"
    cards: list[Card]


def cards(run: ConeRun) -> Cards:
    """Return a card for the axis of every model and corpus."""
    blocks = []
    for model in run.displayed:
        for corpus, facts in model.facts.get("cards", {}).items():
            where, n = where_corpus(corpus), run.info.corpora.get(corpus, {}).get("sentences")

            def final(metric: str, model: Any = model, where: dict[str, str] = where) -> str:
                return estimate(run.final(model, metric, **where), "undefined")

            numbers = (
                f"share of the variance {final('axis_share')}",
                f"stability {final('axis_stability')}",
                f"cosine with the mean direction {final('axis_to_mean')}",
                f"with the uncentred axis {final('axis_to_uncentered')}",
                f"n\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}{n}",
            )
            ends = tuple(
                CardEnd(title, _texts(facts.get(key)), _texts(facts.get(f"{key}_tokens")))
                for key, title in (("most", "Highest projection"), ("least", "Lowest projection"))
            )
            title = model.name + (f", {corpus}" if len(run.corpora) > 1 else "")
            blocks.append(Card(title, numbers, ends, str(facts.get("vocabulary", ""))))
    return Cards(blocks)


def _texts(pairs: Any) -> Texts:
    return tuple((str(text), number(float(value))) for text, value in pairs or ())
