"""Memory that is freed is used again."""

import os
import platform
import subprocess
import sys

import pytest

# Page faults of blocks of 20 MB, 200 MB in all, after as many were freed several times.
AGAIN = """
import resource
import torch
from dynamics.cli.memory import reuse_memory
if {reuses}:
    reuse_memory()
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(5_000_000) for _ in range(10)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
# The thresholds that a process starts with; glibc raises them by the sizes that it sees, unless they are set.
START = "glibc.malloc.trim_threshold=131072:glibc.malloc.mmap_threshold=131072"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these settings")
def test_memory_that_is_freed_is_used_again():
    def faults(reuses):
        command = [sys.executable, "-c", AGAIN.format(reuses=reuses)]
        environment = os.environ | {"GLIBC_TUNABLES": START}
        return int(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)

    assert faults(False) > 40_000
    assert faults(True) < 10_000
