"""What a run states about its making."""

import subprocess
import sys

from dynamics.provenance import provenance


def test_versions_hardware_and_command_are_stated():
    facts = provenance()
    assert facts["versions"]["torch"]
    assert " x " in facts["hardware"]
    assert facts["command"]


def test_no_file_is_left_open():
    code = "from dynamics.provenance import provenance; provenance()"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    assert "cpuinfo" not in done.stderr
