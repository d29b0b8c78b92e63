"""Memory that is freed is used again."""

import platform
import subprocess
import sys

import pytest

# Page faults of the second allocation of 64 MB, after the first was freed.
SECOND = """
import resource
import torch
from dynamics.cli.memory import reuse_memory
if {reuses}:
    reuse_memory()
torch.ones(16_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(16_000_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_memory_that_is_freed_is_used_again():
    fresh, reused = (
        int(subprocess.run([sys.executable, "-c", SECOND.format(reuses=x)], capture_output=True, check=True).stdout)
        for x in (False, True)
    )
    assert fresh > 10_000
    assert reused < 100
