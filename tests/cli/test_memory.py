"""Memory that is freed is used again."""

import os
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
    environment = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}

    def faults(reuses):
        command = [sys.executable, "-c", SECOND.format(reuses=reuses)]
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    fresh, reused = faults(False), faults(True)
    assert fresh > 10_000
    assert reused < 100
