"""The page as a PDF or a picture, made by a browser without a window. No network: the page needs nothing."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory

from dynamics.errors import Failure, InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
WIDTH, TALLEST = 1400, 16_000  # pixels of a picture: browsers draw no taller one
SECONDS = 300


def find(kind: str) -> str:
    """Return the browser that makes a file of a kind; refuse where there is none."""
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        raise InputError(
            f"--format {kind} needs Chromium or Chrome, and none of {', '.join(BROWSERS)} is on the PATH: install "
            "Chromium (on Debian, `apt install chromium`), or write html and print it from your browser."
        )
    return browser


def convert(html: str, kind: str) -> bytes:
    """Return a page as a file of the kind `pdf` or `png`; what is folded stays so.

    Raises:
        InputError: there is no browser.
        Failure: the browser made no file.
    """
    browser = find(kind)
    size = f"--window-size={WIDTH},1000"
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        page, made = Path(folder) / "page.html", Path(folder) / f"page.{kind}"
        page.write_text(html, encoding="utf-8")
        if kind == "pdf":
            _run(browser, page, folder, size, "--no-pdf-header-footer", f"--print-to-pdf={made}")
        else:
            height = re.search(r'<html[^>]* data-height="(\d+)"', _run(browser, page, folder, size, "--dump-dom"))
            tall = min(int(height[1]) if height else TALLEST, TALLEST)
            _run(browser, page, folder, f"--window-size={WIDTH},{tall}", f"--screenshot={made}")
        if not made.is_file():
            raise Failure(f"{browser} made no {kind} of the page: write html and print it from your browser.")
        return made.read_bytes()


def _run(browser: str, page: Path, folder: str, *options: str) -> str:
    """Open a page until it is drawn, and return what the browser prints."""
    command = [browser, "--headless", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
    # A browser of root has no sandbox; the page may load nothing and hides nothing (see its content policy).
    command += ["--no-sandbox"] * (hasattr(os, "geteuid") and os.geteuid() == 0)
    # Virtual time runs on as fast as the page draws: the budget is what its timers may take.
    command += ["--virtual-time-budget=60000", *options, page.as_uri()]
    try:
        # What it prints goes to a file: its children would keep a pipe open after its end.
        with (Path(folder) / "printed").open("w+b") as printed:
            subprocess.run(command, stdout=printed, stderr=subprocess.DEVNULL, timeout=SECONDS, check=True)
            printed.seek(0)
            return printed.read().decode(errors="replace")
    except subprocess.TimeoutExpired as error:
        raise Failure(f"{browser} has not drawn the page in {SECONDS} seconds: write html instead.") from error
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"{browser} failed ({str(error)[-200:]}): write html instead.") from error
