"""Tests on the simulated device are skipped, with the reason, where it cannot be built."""

import pytest

from tests.gpu.stand_ins import Unavailable, library


@pytest.fixture(scope="session", autouse=True)
def simulated():
    try:
        library()
    except Unavailable as reason:
        pytest.skip(f"{reason}")
