"""Fixtures of the data room."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dynamics.data import corpus
from dynamics.data.corpus import Corpus


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DYNAMICS_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def enwik8_prefix(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """The first 4 MB of enwik8, cleaned."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNAMICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield corpus.load(str(shared_data / "enwik8_prefix.xml.xz"), progress=False)
