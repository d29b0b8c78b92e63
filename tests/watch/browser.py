"""A headless Chromium, driven through its debugging protocol with the websocket client of aiohttp."""

import asyncio
import base64
import json
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from dynamics.report.browser import BROWSERS

CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)


class Browser:
    """One page in a browser; `troubles` are errors and warnings of its console and its network."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._last, self._waiting = socket, 0, dict[int, asyncio.Future[Any]]()
        self._session: str | None = None
        self.troubles: list[str] = []
        self.requests: list[str] = []

    async def send(self, method: str, **parameters: Any) -> Any:
        self._last += 1
        answer = self._waiting[self._last] = asyncio.get_running_loop().create_future()
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": self._last, "method": method, "params": parameters} | session)
        return await asyncio.wait_for(answer, 60)

    async def read(self) -> None:
        async for message in self._socket:
            content = json.loads(message.data)
            if "id" in content:
                answer = self._waiting.pop(content["id"])
                if "error" in content:
                    answer.set_exception(RuntimeError(str(content["error"])))
                else:
                    answer.set_result(content["result"])
            else:
                self._hear(content.get("method", ""), content.get("params", {}))

    def _hear(self, method: str, content: dict[str, Any]) -> None:
        if method == "Runtime.exceptionThrown":
            self.troubles.append(str(content["exceptionDetails"].get("exception", {}).get("description")))
        elif method == "Runtime.consoleAPICalled" and content["type"] in ("error", "warning", "assert"):
            self.troubles.append(str(content["args"]))
        elif method == "Log.entryAdded" and content["entry"]["level"] in ("error", "warning"):
            self.troubles.append(content["entry"]["text"] + " " + content["entry"].get("url", ""))
        elif method == "Network.requestWillBeSent":
            self.requests.append(content["request"]["url"])

    async def start(self, width: int = 1400, height: int = 1000) -> None:
        target = await self.send("Target.createTarget", url="about:blank")
        attached = await self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")
        await self.resize(width, height)

    async def resize(self, width: int, height: int, dark: bool = False) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.send("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def open(self, url: str) -> None:
        await self.send("Page.navigate", url="about:blank")
        await self.send("Page.navigate", url=url)

    async def run(self, script: str) -> Any:
        """Return the value of an expression."""
        result = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(f"{script}: {result['exceptionDetails']['exception'].get('description')}")
        return result["result"].get("value")

    async def until(self, script: str, seconds: float = 30) -> Any:
        """Wait until an expression is true, and return its value."""
        try:
            async with asyncio.timeout(seconds):
                while not (value := await self.run(script)):
                    await asyncio.sleep(0.05)
            return value
        except TimeoutError as error:
            raise AssertionError(f"not within {seconds} s: {script}; troubles: {self.troubles}") from error

    async def press(self, key: str) -> None:
        codes = {
            "ArrowLeft": 37,
            "ArrowRight": 39,
            "ArrowUp": 38,
            "ArrowDown": 40,
            "Tab": 9,
            "Home": 36,
            "End": 35,
            " ": 32,
        }
        for kind in ("keyDown", "keyUp"):
            text = {"text": " "} if key == " " and kind == "keyDown" else {}
            await self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=codes[key], **text)

    async def picture(self, path: Path, whole: bool = True) -> None:
        shot = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))


def in_browser(profile: Path, work: Callable[[Browser], Awaitable[Any]]) -> Any:
    """Return what `work` returns, given a browser of its own."""

    async def main() -> Any:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        more = ["--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={profile}"]
        process = subprocess.Popen([str(CHROMIUM), *options, *more], stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr
            lines = iter(process.stderr.readline, "")
            address = next(found[1] for line in lines if (found := re.search(r"listening on (ws://\S+)", line)))
            async with aiohttp.ClientSession() as session, session.ws_connect(address, max_msg_size=0) as socket:
                browser = Browser(socket)
                reading = asyncio.create_task(browser.read())
                await browser.start()
                try:
                    return await work(browser)
                finally:
                    reading.cancel()
        finally:
            process.terminate()
            process.wait(30)

    return asyncio.run(main())
