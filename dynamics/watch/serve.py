"""`dynamics watch`: a server of the live page, or the page as one file. No torch here."""

import errno
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dynamics import files
from dynamics.errors import InputError
from dynamics.runs import CHECKPOINTS
from dynamics.watch import document
from dynamics.watch.listing import Listing
from dynamics.watch.store import Store
from dynamics.watch.view import everything

if TYPE_CHECKING:
    import uvicorn

HOST, PORT = "127.0.0.1", 8765
LOOPBACK = ("127.0.0.1", "::1", "localhost")
ANY = ("0.0.0.0", "::")  # every address of this machine
CLOSING_SECONDS = 3
TRIED = 50  # ports, from the one that was asked for on
MOST_INSIDE = 20  # runs whose records go into one file where none is named


def write_page(names: Sequence[str], out: Path) -> Path:
    """Write the page with the records of the runs inside to the file `out` and return it.

    Raises:
        InputError: there is no run, one does not exist, or `out` cannot be written.
    """
    if out.is_dir():
        raise InputError(f"--once {out} is a folder: name a file in it, for example {out / 'watch.html'}.")
    if not out.parent.is_dir():
        raise InputError(f"--once {out}: the folder {out.parent} does not exist; make it first.")
    store = Store(names)
    rows = Listing(store).rows()
    written = {row["key"]: row["written"] or 0.0 for row in rows}
    if not written:
        raise InputError(f"there is no run under {CHECKPOINTS}/ to show: make one, as with `dynamics fit`.")
    chosen = list(written) if names else sorted(written, key=lambda key: written[key], reverse=True)[:MOST_INSIDE]
    if len(chosen) < len(written):
        print(f"of {len(written)} runs, the file has the records of the {len(chosen)} written last: name others.")
    try:
        files.write_text(out, document.single_file(everything(store, chosen, rows)), digest=False)
    except OSError as error:
        raise InputError(f"--once {out} cannot be written ({error.strerror}): name a file elsewhere.") from error
    return out


def serve(names: Sequence[str], host: str = HOST, port: int = PORT) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        InputError: a run does not exist, or nothing can be served at the host and port.
    """
    store = Store(names)
    with bind(host, port) as listening:
        bound = listening.getsockname()[1]
        if port and bound != port:
            print(f"port {port} is in use: the page is at the next one that is free.")
        if host not in LOOPBACK:
            print(f"CAUTION: whoever reaches {host}, port {bound}, can read these runs: there is no password.")
        what = f"{len(names)} run{'s' * (len(names) > 1)}" if names else f"all runs under {CHECKPOINTS}/"
        server = make_server(store, host)
        store.runs()  # the first look at all runs, before the first request
        print(f"{what}: http://{f'[{host}]' if ':' in host else host}:{bound}/ (Ctrl-C ends it)", flush=True)
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # the usual end
            print()


def make_server(store: Store, host: str) -> "uvicorn.Server":
    """Return the server; its streams of events end when it does."""
    import uvicorn

    from dynamics.watch.app import application

    app = application(store, names_of(host), lambda: server.should_exit)
    server = uvicorn.Server(
        uvicorn.Config(app, log_level="warning", lifespan="off", timeout_graceful_shutdown=CLOSING_SECONDS)
    )
    return server


def names_of(host: str) -> set[str]:
    """Return the names under which requests to a host may come; `*` stands for any address."""
    if host in LOOPBACK:
        return set(LOOPBACK)
    everywhere = {"*", socket.gethostname().lower(), socket.getfqdn().lower()} if host in ANY else set()
    return {host.lower(), *LOOPBACK, *everywhere}


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens at a port, or at the next that is free; at any where `port` is 0."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port {port} must be from 0 to 65535.")
    if not host:  # to a socket, that is every address
        raise InputError("--host must name an address, such as 127.0.0.1.")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for tried in range(port, min(port + TRIED, 65536)):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, tried))
            listening.listen(128)
        except (OSError, UnicodeError) as error:
            listening.close()
            if not isinstance(error, OSError) or error.errno != errno.EADDRINUSE:
                raise InputError(f"--host {host}, --port {tried} cannot be served at ({error}).") from error
        else:
            return listening
    raise InputError(f"--port {port}: this port and those after it are in use; choose another one.")
