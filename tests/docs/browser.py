"""Headless Chromium by Playwright, and what a page shows in it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any, Literal

import pytest
from playwright.sync_api import ConsoleMessage, Page, Request, Response, sync_playwright

Scheme = Literal["light", "dark"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
TALLEST = 16_000
OWN = ("http://127.0.0.1:", "file:", "data:", "blob:", "about:")

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
  for (const table of document.querySelectorAll("article table")) {
    const box = table.closest(".md-typeset__scrollwrap") || table.parentElement;
    if (width < 600 && box.scrollWidth > box.clientWidth + 1)
      faults.push(`table to be scrolled: ${table.textContent.trim().slice(0, 60)}`);
  }
  return faults;
})()
"""
LINKS = """() => [...document.querySelectorAll("a[href]")].map((a) => a.href)"""
SETTLED = """() => document.fonts.ready.then(() => new Promise(
  (done) => requestAnimationFrame(() => setTimeout(done, 50))))"""
ANCHORS = """() => [...document.querySelectorAll("[id]")].map((e) => e.id)"""


def chromium() -> str:
    """Return the browser's path: that which CHROMIUM names, or the first that is installed.

    Without one the test fails, and is skipped where MCLD_SKIP_CHROMIUM asks for that.
    """
    named = os.environ.get("CHROMIUM")
    names = (named,) if named else NAMES
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return found
    reason = f"no browser: none of {', '.join(names)} is there (apt-get install chromium)"
    if named or os.environ.get("MCLD_SKIP_CHROMIUM", "0") in ("", "0"):
        pytest.fail(f"{reason}. MCLD_SKIP_CHROMIUM=1 leaves these tests out")
    pytest.skip(reason)


class Browser:
    """One tab. Use it as a context manager; ``complaints`` is what the last page logged."""

    def __init__(self, program: str) -> None:
        self._playwright = sync_playwright().start()
        self._browser = self._playwright.chromium.launch(executable_path=program, args=OPTIONS)
        self._tabs: dict[tuple[bool, Scheme], Page] = {}
        self.complaints: list[str] = []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._browser.close()
        self._playwright.stop()

    def open(self, url: str, width: int, height: int = 900, scheme: Scheme = "light") -> None:
        """Load a page in a window of that width, and wait until it is drawn."""
        kind = (width < 600, scheme)  # the theme remembers a scheme, so each has a tab of its own
        if kind not in self._tabs:
            self._tabs[kind] = self._new_tab(*kind)
        self._tab = self._tabs[kind]
        self._tab.set_viewport_size({"width": width, "height": height})
        self._tab.goto("about:blank")
        self.complaints = []
        self._tab.goto(url, wait_until="load")
        self.evaluate(SETTLED)

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression or function, promises awaited."""
        return self._tab.evaluate(expression)

    def screenshot(self, path: Path) -> None:
        """Write the page as a PNG, in a window as tall as it, up to what Chromium can draw."""
        size = self._tab.viewport_size
        assert size is not None
        tall = self.evaluate("document.documentElement.scrollHeight")
        self._tab.set_viewport_size({"width": size["width"], "height": min(tall, TALLEST)})
        self.evaluate(SETTLED)
        self._tab.screenshot(path=path)

    def _new_tab(self, phone: bool, scheme: Scheme) -> Page:
        tab = self._browser.new_context(is_mobile=phone, color_scheme=scheme).new_page()
        tab.on("pageerror", lambda error: self.complaints.append(f"exception: {error}"))
        tab.on("console", self._note_message)
        tab.on("request", self._note_request)
        tab.on("response", self._note_response)
        tab.on("requestfailed", lambda r: self.complaints.append(f"{r.failure}: {r.url}"))
        return tab

    def _note_message(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console: {message.text} {message.location.get('url')}")

    def _note_request(self, request: Request) -> None:
        if not request.url.startswith(OWN):
            self.complaints.append(f"request to {request.url}")

    def _note_response(self, response: Response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")
