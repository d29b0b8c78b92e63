"""A SLURM for the tests of this folder, and a place where its jobs run."""

import os

import pytest

from tests.launch import cluster
from tests.runs import working_in


@pytest.fixture(scope="session")
def slurm(tmp_path_factory):
    """A SLURM that runs, and a working directory for its jobs, with `dynamics` on their PATH."""
    places = tmp_path_factory.mktemp("slurm"), tmp_path_factory.mktemp("jobs")
    with cluster.started(places[0]), working_in(places[1]), pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{cluster.ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}")
        patch.setenv("PYTHONPATH", str(cluster.ROOT))
        yield places[1]
