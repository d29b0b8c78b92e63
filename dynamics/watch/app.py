"""The web application: the page, its data, and events when runs change. No torch here."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Collection
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dynamics.run_info import Facts
from dynamics.watch import document
from dynamics.watch.listing import Listing
from dynamics.watch.store import Store
from dynamics.watch.view import heads, view

EVENT_SECONDS = 1.0  # between two looks at the runs, while a page is open
ALIVE_SECONDS = 15  # after which a stream that has nothing to say says so
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def application(store: Store, hosts: Collection[str], is_closing: Callable[[], bool] = lambda: False) -> ASGIApp:
    """Return the application that serves the runs of `store` to those who address it as one of `hosts`."""
    listing = Listing(store)

    def text(content: str, kind: str) -> Callable[[Request], Response]:
        return lambda request: Response(content, media_type=kind)

    def data(read: Callable[..., Facts]) -> Callable[[Request], Response]:
        """Answer with what `read` returns of the runs that the request names by their keys."""

        def answer(request: Request) -> Response:
            since = request.query_params.get("since", "0")
            if not since.isascii() or not since.isdigit():
                return PlainTextResponse("since must be a whole number.", status_code=400)
            keys = request.query_params.getlist("run")
            return Response(as_json(read(store, keys, int(since))), media_type="application/json")

        return answer

    async def events(request: Request) -> Response:
        return StreamingResponse(changes(listing, is_closing), media_type="text/event-stream")

    routes = [
        Route("/", text(document.page(), "text/html")),
        Route("/page.css", text(document.style(), "text/css")),
        Route("/page.js", text(document.script(), "text/javascript")),
        Route("/api/view", data(view)),
        Route("/api/heads", data(heads)),
        Route("/api/events", events),
    ]
    return HostGuard(Starlette(routes=routes), hosts)


async def changes(listing: Listing, is_closing: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield the rows of the list as server-sent events: all at first, then those that have changed."""
    sent: dict[str, Facts] = {}
    quiet = 0.0
    is_first = True
    while not is_closing():
        rows = {row["key"]: row for row in await run_in_threadpool(listing.rows)}
        changed = [row for key, row in rows.items() if sent.get(key) != row]
        gone = list(sent.keys() - rows.keys())
        if changed or gone or is_first:
            yield f"data: {as_json({'rows': changed, 'gone': gone, 'all': is_first})}\n\n"
            quiet, is_first = 0.0, False
        elif quiet >= ALIVE_SECONDS:
            yield ": nothing new\n\n"
            quiet = 0.0
        sent, quiet = rows, quiet + EVENT_SECONDS
        await asyncio.sleep(EVENT_SECONDS)


def as_json(content: Any) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


class HostGuard:
    """Refuses requests under another name, and gives every answer the headers that keep the page to itself.

    A page elsewhere can have its own name lead to this address (DNS rebinding), so the name in the request decides.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        app = self._app
        if not self._knows(Request(scope).headers.get("host", "")):
            names = " or ".join(sorted(self._hosts))
            app = PlainTextResponse(f"this server answers to {names} alone: open it under that name.", status_code=421)
        await app(scope, receive, send_guarded)

    def _knows(self, host: str) -> bool:
        """Whether a request may come under this name; where all addresses are served (`*`), under any address."""
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._hosts or ("*" in self._hosts and _is_address(name))


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True
