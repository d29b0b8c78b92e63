"""What `run.json` says, read and written again."""

import pytest

from dynamics.runs import FitInfo, ProbeInfo, RunInfo


@pytest.mark.parametrize("kind", [RunInfo, FitInfo, ProbeInfo])
@pytest.mark.parametrize("content", [{}, {"run": "a", "status": "done", "seed": 0, "new": [1]}])
def test_what_a_file_does_not_say_is_not_made_up(kind, content):
    expected = content | ({"kind": kind.kind} if kind.kind else {})
    assert kind.from_dict(content).to_dict() == expected
