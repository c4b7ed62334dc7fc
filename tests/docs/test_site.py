"""The built site in headless Chromium: no page complains, overflows, or leads nowhere."""

from __future__ import annotations

import ast
import functools
import http.server
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urldefrag

import pytest

from tests.docs.browser import ANCHORS, FAULTS, LINKS, Browser, Scheme, chromium

ROOT = Path(__file__).resolve().parents[2]
DESKTOP, PHONE = 1280, 390
PAGES = {
    "index.html",
    "choosing.html",
    "faq.html",
    "method.html",
    "hyperparameters.html",
    "paper_index.html",
    "backends.html",
    "examples.html",
    "migrating.html",
    "comparison.html",
    "contributing.html",
    "changelog.html",
    *(f"guides/{path.stem}.html" for path in (ROOT / "docs" / "guides").glob("*.md")),
    *(f"api/{path.stem}.html" for path in (ROOT / "docs" / "api").glob("*.md")),
    "results/index.html",
    *(f"results/{path.stem}.html" for path in (ROOT / "benchmarks" / "results").glob("*.md")),
}
BAD_PAGE = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<script>console.error("a complaint"); undefined_name();</script></head><body><article>
<p style="width: 900px">wide</p><p style="overflow: hidden; width: 100%"></p>
<math style="font-size: 0"><mi>x</mi></math><math><mi>a &amp; b</mi></math>
<math><msub style="font-size: 16px"><mi>x</mi><mi style="font-size: 16px">i</mi></msub></math>
<span class="arithmatex">\\(x\\)</span><img src="missing.png" alt="missing">
<div style="overflow: auto"><table style="width: 600px"><tr><td>wide</td></tr></table></div>
<a href="nowhere.html">a</a><a href="#nothing">b</a><a href="bad.html#top">c</a>
</article></body></html>"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built from the installed package with warnings as errors."""
    folder = tmp_path_factory.mktemp("site")
    finished = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "mkdocs",
            "build",
            "--strict",  # counts no warning beside --quiet
            "--site-dir",
            str(folder),
        ],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A tab of the browser."""
    with Browser(chromium()) as tab:
        yield tab


@pytest.fixture(scope="session")
def pictures() -> Path | None:
    """The folder that MCLD_SCREENSHOTS names, for a picture of each page at each width."""
    named = os.environ.get("MCLD_SCREENSHOTS")
    if not named:
        return None
    Path(named).mkdir(parents=True, exist_ok=True)
    return Path(named)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


def serve(folder: Path) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="session")
def address(site: Path) -> Iterator[str]:
    """Where the site is served."""
    server = serve(site)
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def pages_of(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.html"))


def broken_links(tab: Browser, address: str, pages: list[str]) -> list[str]:
    """Return the links of these pages to a page or an anchor that is not there."""
    anchors, links = {}, []
    for page in pages:
        tab.open(address + page, DESKTOP)
        anchors[page] = {"", "top", *tab.evaluate(ANCHORS)}
        links += [(page, link) for link in tab.evaluate(LINKS) if link.startswith(address)]
    broken = []
    for page, link in links:
        target, anchor = urldefrag(link.removeprefix(address))
        target = unquote(target) or "index.html"
        if target.endswith("/"):
            target += "index.html"
        if target not in anchors or unquote(anchor) not in anchors[target]:
            broken.append(f"{page} → {link}")
    return broken


def test_every_page_is_there(site: Path) -> None:
    assert {*PAGES, "404.html"} == set(pages_of(site))
    text = (site / "index.html").read_text("utf-8")
    assert all(f'href="{page}"' in text for page in ("method.html", "guides/torch.html"))


def public_names(module: Path) -> list[str]:
    """Return what a module offers: ``__all__``, or its functions, classes and re-exports."""
    names = []
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return list(ast.literal_eval(node.value))
        if isinstance(node, ast.ImportFrom):
            names += [each.name for each in node.names if each.asname == each.name]
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.append(node.name)
    return [name for name in names if not name.startswith("_")]


def test_every_public_name_has_a_place_on_an_api_page(site: Path) -> None:
    modules = {
        f"mcld_core.extensions.{path.stem}": path for path in ROOT.glob("extensions/[!_]*.py")
    }
    modules |= {
        f"mcld_core.{name}": ROOT / "mcld_core" / name / "__init__.py"
        for name in ("torch", "tensorflow", "jax", "keras")
    }
    modules |= {
        f"mcld_core.extensions.{path.parent.name}": path
        for path in ROOT.glob("extensions/*/__init__.py")
    }
    modules["mcld_core"] = ROOT / "mcld_core" / "__init__.py"
    modules["mcld_core.export"] = ROOT / "mcld_core" / "export" / "__init__.py"
    public = {f"{module}.{name}" for module, path in modules.items() for name in public_names(path)}
    assert {
        "mcld_core.mcld_loss",
        "mcld_core.keras.MCLDLoss",
        "mcld_core.extensions.timeseries.bin_labels",
    } <= public
    pages = "".join(path.read_text("utf-8") for path in (site / "api").glob("*.html"))
    anchors = set(re.findall(r'\bid="([^"]+)"', pages))
    assert public - anchors == set()
    assert "mcld_core.export.export_onnx" in anchors


def test_names_in_docstrings_are_links(site: Path) -> None:
    page = (site / "api" / "losses.html").read_text("utf-8")
    for name in ("instance_wise", "sample_wise", "category_wise"):
        docstring = page.split(f'id="mcld_core.{name}"')[1].split('id="mcld_core.')[0]
        assert 'href="#mcld_core.mcld_loss"' in docstring


def test_docstrings_are_laid_out(site: Path) -> None:
    page = (site / "api" / "losses.html").read_text("utf-8")
    docstring = page.split('id="mcld_core.mcld_loss"')[1].split('id="mcld_core.')[0]
    signature = docstring.split("</pre>")[0]
    assert signature.count("\n") > 10, "a line for each argument"
    assert "Literal" not in docstring, "the signature that a person calls, no overload"
    returned = docstring.split("Returns:")[1].split("Raises:")[0]
    assert returned.count("<li") == 1, "one text, not an item a line"


def test_tables_are_made_ready_for_a_phone(site: Path) -> None:
    page = (site / "hyperparameters.html").read_text("utf-8")
    assert "<code>weight_<wbr>instance=<wbr>1.0</code>" in page
    assert "<table data-wide>" not in page, "its table has three columns"
    page = (site / "guides" / "export.html").read_text("utf-8")
    assert page.count("<table data-wide>") == 1, "of its tables one has many columns"
    assert '<td data-label="torch">' in page


@pytest.mark.parametrize(("width", "scheme"), [(DESKTOP, "light"), (PHONE, "dark")])
def test_pages_are_drawn_without_fault(
    browser: Browser,
    site: Path,
    address: str,
    pictures: Path | None,
    width: int,
    scheme: Scheme,
) -> None:
    faults = {}
    for page in pages_of(site):
        browser.open(address + page, width, scheme=scheme)
        if found := browser.evaluate(FAULTS) + browser.complaints:
            faults[page] = found
        for each in ("light", "dark") if pictures else ():
            name = page.removesuffix(".html").replace("/", "-")
            browser.open(address + page, width, scheme=each)
            browser.screenshot(pictures / f"{name}-{width}-{each}.png")
    assert faults == {}


def test_the_first_screen_has_picture_install_and_code(browser: Browser, address: str) -> None:
    browser.open(address + "index.html", DESKTOP)
    below = "(e) => document.querySelector(e).getBoundingClientRect().bottom"
    picture, code = (browser.evaluate(f"({below})('article {e}')") for e in ("img", "pre"))
    assert 200 < picture < code < 720
    words = browser.evaluate("() => document.querySelector('article').innerText")
    assert "pip install" in words.split("mcld_loss(")[0]


def test_formulas_are_drawn(browser: Browser, address: str) -> None:
    browser.open(address + "method.html", PHONE)
    assert browser.evaluate("document.querySelectorAll('math').length") > 40
    assert browser.evaluate("document.querySelectorAll('math[display=block]').length") >= 8
    tall = "[...document.querySelectorAll('math[display=block]')].map((e) => e.clientHeight)"
    assert min(browser.evaluate(tall)) > 15


def test_no_internal_link_is_broken(browser: Browser, site: Path, address: str) -> None:
    assert broken_links(browser, address, pages_of(site)) == []


@pytest.mark.parametrize("served", [True, False], ids=["served", "from the disk"])
def test_search_finds_a_function(browser: Browser, site: Path, address: str, served: bool) -> None:
    browser.open(f"{address if served else f'{site.as_uri()}/'}index.html", DESKTOP)
    found = browser.evaluate(
        """() => new Promise((done) => {
          const input = document.querySelector(".md-search__input");
          input.focus();
          input.value = "gather_keys";
          input.dispatchEvent(new Event("input", {bubbles: true}));
          input.dispatchEvent(new KeyboardEvent("keyup", {bubbles: true}));
          const end = Date.now() + 20000;
          const look = () => {
            const links = document.querySelectorAll(".md-search-result__link").length;
            links || Date.now() > end ? done(links) : setTimeout(look, 50);
          };
          look();
        })"""
    )
    assert found > 0
    assert browser.complaints == []


def test_sums_and_brackets_are_stretched(browser: Browser, address: str) -> None:
    """By the font of the site: without one with the table MATH a sum is as small as its line."""
    browser.open(address + "method.html", DESKTOP)
    heights = browser.evaluate(
        """() => [...document.querySelectorAll("math[display=block] mo")]
          .filter((e) => e.textContent === "∑").map((e) =>
            e.getBoundingClientRect().height / parseFloat(getComputedStyle(e).fontSize))"""
    )
    assert len(heights) >= 5
    assert min(heights) > 1.3


def test_drawings_follow_the_scheme_of_the_page(browser: Browser, address: str) -> None:
    picture = "docs/assets/pairs_instance.svg"
    assert "prefers-color-scheme:dark" in (ROOT / picture).read_text("utf-8")
    browser.open(address + "method.html", DESKTOP, scheme="dark")
    assert browser.evaluate("() => getComputedStyle(document.body).colorScheme") == "dark"


def test_a_bad_page_is_seen(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "bad.html").write_text(BAD_PAGE, "utf-8")
    server = serve(tmp_path)
    address = f"http://127.0.0.1:{server.server_port}/"
    browser.open(address + "bad.html", PHONE)
    seen = "\n".join(browser.evaluate(FAULTS) + browser.complaints)
    for fault in (
        "formula without a size",
        "TeX left in",
        "index as large as its base",
        "formula left as TeX",
        "picture missing",
        "px wide at 390",
        "beyond the right edge",
        "table to be scrolled",
        "a complaint",
        "undefined_name",
        "404",
    ):
        assert fault in seen
    assert [link.rpartition("/")[2] for link in broken_links(browser, address, ["bad.html"])] == [
        "nowhere.html",
        "bad.html#nothing",
    ]
    server.shutdown()
    server.server_close()
