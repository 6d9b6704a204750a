"""A real browser without a network, spoken to over a pipe in its own protocol (DevTools)."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND", "--window-size=1000,1600",
)  # fmt: skip
PATIENCE = 90.0
"""Seconds after which a browser that does not answer is an error."""
_OWN = ("file:", "data:", "blob:", "about:")


def found() -> str | None:
    """The path of a Chromium on this machine, if there is one."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


class Browser:
    """A headless Chromium with one page; what the page asks for and complains of is kept."""

    def __init__(self, path: str, profile: Path) -> None:
        """Start it. Commands go in by its descriptor 3, answers and events come out by 4."""
        to_child, self._out = _pipe()
        self._in, from_child = _pipe()
        place = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); "
        start = place + "os.execv(sys.argv[3], sys.argv[3:])"
        command = [sys.executable, "-c", start, str(to_child), str(from_child), path, *FLAGS]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command,
            pass_fds=(to_child, from_child),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (to_child, from_child):
            os.close(end)
        self._count, self._buffer, self._session = 0, b"", ""
        self.complaints: list[str] = []
        """Errors of the console, exceptions, dialogs."""
        self.asked: list[str] = []
        """Addresses requested that are not of the page itself."""
        self._loaded = 0
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        """Return it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it, come what may."""
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def open(self, page: Path) -> None:
        """Go to a page and wait until it has loaded."""
        self._loaded = 0
        self._call("Page.navigate", url=page.as_uri())
        self._until(lambda: self._loaded > 0, "the page to load")

    def js(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until an expression is true in the page."""
        self._until(lambda: bool(self.js(expression)), expression)

    def hover(self, selector: str, number: int = 0) -> None:
        """Move the mouse to the middle of an element, as a person would."""
        chosen = f"document.querySelectorAll({json.dumps(selector)})[{number}]"
        self.js(f"{chosen}.scrollIntoView({{block: 'center'}})")
        box = self.js(f"(b => [b.x + b.width / 2, b.y + b.height / 2])({chosen}"
                      ".getBoundingClientRect())")  # fmt: skip
        for x, y in ((0.0, 0.0), box):
            self._call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    @contextmanager
    def on_paper(self, width: int) -> Iterator[None]:
        """Lay the page out as for print, on paper so many pixels wide."""
        paper = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setEmulatedMedia", media="print")
        self._call("Emulation.setDeviceMetricsOverride", **paper)
        try:
            yield
        finally:
            self._call("Emulation.setEmulatedMedia", media="")
            self._call("Emulation.clearDeviceMetricsOverride")

    def picture(self) -> bytes:
        """Return a PNG of what is in sight."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        asked: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            asked["sessionId"] = self._session
        os.write(self._out, json.dumps(asked).encode() + b"\0")
        for message in self._messages():
            if message.get("id") == self._count:
                assert "error" not in message, f"{method}: {message['error']}"
                answer: dict[str, Any] = message["result"]
                return answer
        raise AssertionError(f"The browser did not answer {method} within {PATIENCE:g} s.")

    def _until(self, done: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, f"waited {PATIENCE:g} s for {what}: {self.complaints}"
            self.js("0")  # takes in what has happened
            time.sleep(0.02)

    def _messages(self) -> Iterator[dict[str, Any]]:
        """Yield messages as they come; events are noted on the way."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            *whole, self._buffer = self._buffer.split(b"\0")
            for number, each in enumerate(whole):
                message = json.loads(each)
                self._note(message)
                if "id" in message:
                    self._buffer = b"\0".join([*whole[number + 1 :], self._buffer])
                    yield message
                    break
            else:
                if select.select([self._in], [], [], 1.0)[0]:
                    self._buffer += os.read(self._in, 1 << 20)

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method", ""), message.get("params", {})
        if method == "Page.loadEventFired":
            self._loaded += 1
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        elif method == "Page.javascriptDialogOpening":
            self.complaints.append(f"dialog: {params['message']}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.complaints.append(str(params["args"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(str(params["entry"]))
        elif method == "Network.requestWillBeSent":
            url = str(params["request"]["url"])
            self.asked += [] if url.startswith(_OWN) else [url]


def _pipe() -> tuple[int, int]:
    """A pipe whose ends are none of the first ten descriptors, which the child arranges."""
    ends = os.pipe()
    moved = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return moved[0], moved[1]
