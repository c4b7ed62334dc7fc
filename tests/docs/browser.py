"""Headless Chromium over the pipe of its DevTools protocol, and what a page shows in it."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 60.0
TALLEST = 16_000
OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
)

# What is wrong with a laid-out page, as a list of sentences.
FAULTS = r"""
(() => {
  const faults = [];
  const sized = (e) => { const b = e.getBoundingClientRect(); return b.width > 1 && b.height > 1; };
  for (const formula of document.querySelectorAll("math")) {
    if (!formula.checkVisibility()) continue;
    if (!sized(formula)) faults.push(`formula without a size: ${formula.textContent}`);
    if (/[&\\]/.test(formula.textContent)) faults.push(`TeX left in: ${formula.textContent}`);
    for (const index of formula.querySelectorAll("msub > :last-child, msup > :last-child")) {
      const [base, small] = [index.previousElementSibling, index].map(
        (e) => parseFloat(getComputedStyle(e).fontSize));
      if (!(small < base)) faults.push(`index as large as its base: ${index.textContent}`);
    }
  }
  for (const left of document.querySelectorAll(".arithmatex"))
    faults.push(`formula left as TeX: ${left.textContent}`);
  for (const picture of document.images)
    if (picture.checkVisibility() && !(picture.complete && picture.naturalWidth > 0))
      faults.push(`picture missing: ${picture.src}`);
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) {
    const wide = [...document.querySelectorAll("body *")].filter(
      (e) => e.getBoundingClientRect().right > width + 1).map(
      (e) => `${e.tagName.toLowerCase()}.${e.className} "${e.textContent.trim().slice(0, 40)}"`);
    faults.push(`the page is ${document.documentElement.scrollWidth} px wide at ${width}: `
      + wide.slice(0, 5).join("; "));
  }
  const cut = (e) => {
    const right = e.getBoundingClientRect().right;
    for (let box = e.parentElement; box && box !== document.body; box = box.parentElement) {
      const style = getComputedStyle(box);
      if (["auto", "scroll"].includes(style.overflowX)) return false;
    }
    return right > width + 1;
  };
  for (const part of document.querySelectorAll("article p, article li, article table, article img, "
      + "article math, article pre, article h1, article h2, article h3, article code"))
    if (part.checkVisibility() && cut(part))
      faults.push(`beyond the right edge: ${part.tagName} "${part.textContent.slice(0, 60)}"`);
  return faults;
})()
"""
LINKS = """[...document.querySelectorAll("a[href]")].map((a) => a.href)"""
SETTLED = """document.fonts.ready.then(() => new Promise(
  (done) => requestAnimationFrame(() => setTimeout(done, 50))))"""
ANCHORS = """[...document.querySelectorAll("[id]")].map((e) => e.id)"""


def chromium() -> str:
    """Return the browser's path: that which CHROMIUM names, or the first that is installed.

    Without one the test is skipped; it fails if CHROMIUM names one, or if MCLD_REQUIRE_CHROMIUM
    is set to anything but 0.
    """
    named = os.environ.get("CHROMIUM")
    names = (named,) if named else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return found
    reason = f"no browser: none of {', '.join(names)} is there (apt-get install chromium)"
    if named or os.environ.get("MCLD_REQUIRE_CHROMIUM", "0") not in ("", "0"):
        pytest.fail(reason)
    pytest.skip(f"{reason}; MCLD_REQUIRE_CHROMIUM=1 makes this a failure")


class Browser:
    """One tab. Use it as a context manager; ``complaints`` is what the last page logged."""

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory()
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()

        def pipes() -> None:  # the protocol's pipes are file descriptors 3 and 4
            first, second = os.dup(read_commands), os.dup(write_answers)
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [program, *OPTIONS, f"--user-data-dir={self._profile.name}", "about:blank"],
            preexec_fn=pipes,
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self._loaded = False
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._session = None
        self.call("Browser.close")
        self._process.wait(SECONDS)
        os.close(self._commands)
        os.close(self._answers)
        self._profile.cleanup()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive(SECONDS)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]  # type: ignore[no-any-return]

    def open(self, url: str, width: int, height: int = 900) -> None:
        """Load a page in a window of that width, and wait until it is drawn."""
        self._resize(width, height)
        self.complaints, self._loaded = [], False
        self.call("Page.navigate", url=url)
        end = time.monotonic() + SECONDS
        while not self._loaded:
            self._receive(end - time.monotonic())
        self.evaluate(SETTLED)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, promises awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the page as a PNG, in a window as tall as it, up to what Chromium can draw."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        self._resize(int(size["width"]), min(int(size["height"]), TALLEST))
        self.evaluate(SETTLED)
        answer = self.call("Page.captureScreenshot")
        path.write_bytes(base64.b64decode(answer["data"]))

    def _resize(self, width: int, height: int) -> None:
        shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **shape)

    def _receive(self, seconds: float) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, end - time.monotonic()))
            piece = os.read(self._answers, 1 << 20) if ready else b""
            if not piece:
                raise TimeoutError("chromium does not answer")
            self._buffer += piece
        message, self._buffer = self._buffer.split(b"\0", 1)
        event: dict[str, Any] = json.loads(message)
        self._note(event.get("method", ""), event.get("params", {}))
        return event

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(f"exception: {params['exceptionDetails']}")
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
            self.complaints.append(f"console: {params['args']}")
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"log: {params['entry']['text']} {params['entry'].get('url')}")
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.complaints.append(f"{params['response']['status']}: {params['response']['url']}")
        elif method == "Network.requestWillBeSent":
            url = params["request"]["url"]
            if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
                self.complaints.append(f"request to {url}")
