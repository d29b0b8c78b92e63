"""Complaints of jsonargparse as one sentence: keys of nested classes in full, the nearest name, the value."""

import pytest
from jsonargparse import ArgumentParser

from dynamics.errors import InputError
from dynamics.parsing import OneSentenceErrors, explain
from dynamics.schedule import Schedule


class Holder:
    """Holds a class that holds another.

    Args:
        schedule: when.
        width: how wide.
    """

    def __init__(self, schedule: Schedule | None = None, width: int = 1) -> None: ...


class Parser(OneSentenceErrors, ArgumentParser):
    """A parser whose options are keys."""


@pytest.fixture
def parser():
    parser = Parser()
    parser.add_subclass_arguments(Holder, "holder")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--config", action="config")
    return parser


HOLDER = "--holder=tests.test_parsing.Holder"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--steps", "x"], "steps must be int (got x)."),
        (["--stps", "3"], "there is no option stps: did you mean steps?"),
        (["--nothing.like.it", "3"], "there is no option nothing.like.it: --help lists the options."),
        (["more"], "more is one word too many: see --help."),
        ([HOLDER, "--holder.width", "x"], "holder.width must be int (got x)."),
        ([HOLDER, "--holder.widht", "3"], "there is no option holder.widht: did you mean holder.width?"),
        (["--holder", "Every"], "holder: there is no class Every: give its full import path."),
        (["--holder", "nowhere.Every"], "holder: there is no module nowhere: give the class's full import path."),
        (
            [HOLDER, "--holder.schedule=dynamics.schedule.Evry"],
            "holder.schedule: there is no class Evry in dynamics.schedule: did you mean Every?",
        ),
        (
            [HOLDER, "--holder.schedule=dynamics.schedule.Every", "--holder.schedule.interval", "x"],
            "holder.schedule.interval must be int (got x).",
        ),
        (
            [HOLDER, "--holder.schedule=dynamics.schedule.Every", "--holder.schedule.intervall", "3"],
            "there is no option holder.schedule.intervall: did you mean holder.schedule.interval?",
        ),
        (["--config", "{stps: 3}"], "there is no option stps: did you mean steps?"),
        (["--config", "{steps: x}"], "steps must be int (got x)."),
    ],
)
def test_a_complaint_names_the_whole_key(parser, words, sentence):
    with pytest.raises(InputError) as error:
        parser.parse_args(words)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("the following arguments are required: corpus", "corpus is missing: see --help."),
        ('Parser key "data":\n  arguments are required: task', "data.task is missing: see --help."),
        ("Something else broke", "Something else broke."),
        ("argument --lines/--each: ignored explicit argument 'x'", "--lines takes no value."),
    ],
)
def test_other_complaints(message, sentence):
    assert explain(message) == sentence
