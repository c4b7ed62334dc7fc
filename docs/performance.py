"""The tables of speed and memory, from benchmarks/results/speed-*.json and memory-*.json.

`committed.py` writes them into benchmarks/results/performance.md.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LIMIT = "LIMIT: two products, one exp"


def tables(results: Path) -> str:
    """Return all tables, each under its heading, command and versions."""
    page = []
    for kind in ("speed", "memory"):
        for path in sorted(results.glob(f"{kind}-*.json")):
            result = json.loads(path.read_text("utf-8"))
            page += heading("Peak memory, " * (kind == "memory"), result)
            page += [speed(result["rows"]) if kind == "speed" else memory(result["rows"]), ""]
    return "\n".join(page).strip()


def heading(what: str, result: dict[str, Any]) -> list[str]:
    """Return the lines above a table."""
    row, shapes = result["rows"][0], {row["shape"] for row in result["rows"]}
    only = ", small batches" * all(shape.endswith(",10") for shape in shapes)
    only = f", {row['shape']} only" if len(shapes) == 1 else only
    facts = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    title = f"## {what}{row['framework']} on {row['device']}{only}"
    return [title, "", f"`{result['command']}`", "", facts, ""]


def speed(rows: list[dict[str, Any]]) -> str:
    """Return the ratios to the limit, a row a candidate and a column a shape."""
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    names = [name for name in dict.fromkeys(row["name"] for row in rows) if name != LIMIT]
    cells = {
        (row["name"], row["shape"]): f"{row['ratio_min']:.2f} ({row['spread']:.0%})" for row in rows
    }
    limits = {row["shape"]: row["seconds_min"] * 1e3 for row in rows if row["name"] == LIMIT}
    lines = [["LIMIT, ms", *(f"{limits[shape]:.3g}" for shape in shapes)]]
    lines += [[name, *(cells.get((name, shape), "–") for shape in shapes)] for name in names]
    return markdown(["× LIMIT (spread)", *shapes], lines)


def memory(rows: list[dict[str, Any]]) -> str:
    """Return the peaks."""
    lines = [[row["shape"], row["name"], f"{row['peak_mib']:.1f}"] for row in rows]
    return markdown(["shape", "loss", "MiB"], lines)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])
