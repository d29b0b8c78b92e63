"""What a run says it was made of."""

import subprocess
import sys

from dynamics.provenance import provenance


def test_it_tells_versions_hardware_and_command():
    told = provenance()
    assert told["versions"]["torch"]
    assert " x " in told["hardware"]
    assert told["command"]


def test_no_file_is_left_open():
    code = "from dynamics.provenance import provenance; provenance()"
    command = [sys.executable, "-W", "always::ResourceWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "cpuinfo" not in done.stderr
