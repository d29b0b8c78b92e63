"""A process ends with the one that has started it, even where that is killed."""

import os
import signal
import subprocess
import sys
import time

from dynamics import parent

CHILD = """
import os, pathlib, signal, sys
from dynamics.parent import VARIABLE, end_with_parent
def end(number, frame):
    pathlib.Path("ended").write_text(str(number))
    sys.exit()
signal.signal(signal.SIGTERM, end)
end_with_parent()
assert VARIABLE not in os.environ
pathlib.Path("begun").touch()
while True: signal.pause()
"""
PARENT = f"""
import os, subprocess, sys
from dynamics.parent import variables
subprocess.run([sys.executable, "-c", {CHILD!r}], env=os.environ | variables())
"""


def wait_for(path):
    deadline = time.monotonic() + 60
    while not (path.exists() and (path.name == "begun" or path.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_process_has_its_child_end(workplace):
    process = subprocess.Popen([sys.executable, "-c", PARENT])
    wait_for(workplace / "begun")
    process.kill()
    process.wait()
    wait_for(workplace / "ended")
    assert (workplace / "ended").read_text() == str(int(signal.SIGTERM))


def test_who_is_not_asked_ends_with_nobody(monkeypatch):
    watched = []
    monkeypatch.setattr(parent, "watch", lambda number, end: watched.append(number))
    monkeypatch.delenv(parent.VARIABLE, raising=False)
    parent.end_with_parent()
    monkeypatch.setenv(parent.VARIABLE, str(os.getppid()))
    parent.end_with_parent()
    assert watched == [os.getppid()]
    assert parent.variables() == {parent.VARIABLE: str(os.getpid())}
