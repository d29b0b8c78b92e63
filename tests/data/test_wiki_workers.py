"""The helpers that clean a dump end with the process that started them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

DUMP = """
import os, sys, time
from dynamics.data import wiki

def pages():
    for number in range(400):
        if number == 200:
            print(open(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read(), flush=True)
            sys.stdin.read()
        yield b"<page><title>x</title><revision><text>" + b"word " * 20_000 + b"</text></revision></page>"

list(wiki.clean_dump(pages(), 2))
"""


def command(number):
    try:
        return Path(f"/proc/{number}/cmdline").read_text()
    except OSError:
        return ""


def test_workers_of_a_process_that_is_killed_end():
    process = subprocess.Popen(
        [sys.executable, "-c", DUMP],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    children = process.stdout.readline().split()
    workers = [child for child in children if "loky" in command(child) and "tracker" not in command(child)]
    assert workers
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=600)
    until = time.monotonic() + 600
    while any(command(worker) for worker in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
