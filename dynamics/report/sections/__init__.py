"""The sections of the page, in order. A new section is a module here and its name in `SECTIONS`.

The first figure that is open stands at the head of the page.
"""

from typing import Protocol

from dynamics.report.blocks import Section
from dynamics.report.sections import (
    audit,
    cone,
    curves,
    geometry,
    glance,
    more,
    phases,
    probe,
    regularizers,
    scan,
    settings,
    shape,
)
from dynamics.report.study import Study


class SectionModule(Protocol):
    """What a module of a section defines."""

    def applies(self, study: Study) -> bool: ...  # whether the study has what the section shows
    def section(self, study: Study) -> Section | None: ...  # None where nothing of it can be drawn


SECTIONS: list[SectionModule] = [
    probe,
    cone,
    audit,
    scan,
    regularizers,
    glance,
    shape,
    phases,
    curves,
    geometry,
    more,
    settings,
]
