"""Turn the JSON of speed.py and memory.py into one page and one picture.

    python benchmarks/table.py

Reads ``benchmarks/results/speed-*.json`` and ``memory-*.json``; writes ``performance.md`` and
``performance.png`` beside them.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measure import LIMIT, RESULTS
from examples.recipes.comparing import markdown
from examples.recipes.files import write_text

INTRODUCTION = (RESULTS.parent / "pages" / "performance.md").read_text("utf-8")


def main() -> None:
    """Write the page and the picture."""
    speed = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("speed-*.json"))]
    memory = [json.loads(path.read_text("utf-8")) for path in sorted(RESULTS.glob("memory-*.json"))]
    if not speed:
        raise SystemExit(f"no speed-*.json in {RESULTS}: run benchmarks/speed.py --json first")
    page = [INTRODUCTION.format(limit=LIMIT)]
    for result in speed:
        page += ["", f"## {_title(result)}", "", *_about(result), "", *_speed_table(result["rows"])]
    for result in memory:
        page += ["", f"## Peak memory, {_title(result)}", "", *_about(result), ""]
        sizes = ((row["shape"], row["name"], f"{row['peak_mib']:.1f}") for row in result["rows"])
        page += markdown(["shape", "loss", "MiB"], sizes)
    write_text(RESULTS / "performance.md", "\n".join(page) + "\n")
    _plot(speed)


def _title(result: dict[str, Any]) -> str:
    row, shapes = result["rows"][0], {row["shape"] for row in result["rows"]}
    small = all(shape.endswith(",10") for shape in shapes)
    only = f", {row['shape']} only" if len(shapes) == 1 else ", small batches" * small
    return f"{row['framework']} on {row['device']}{only}"


def _about(result: dict[str, Any]) -> list[str]:
    facts = ", ".join(f"{name} {value}" for name, value in result["environment"].items())
    return [f"`{result['command']}`", "", facts]


def _speed_table(rows: list[dict[str, Any]]) -> list[str]:
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    cells = {
        (row["name"], row["shape"]): f"{row['ratio_min']:.2f} ({row['spread']:.0%})" for row in rows
    }
    limits = {row["shape"]: row["seconds_min"] * 1e3 for row in rows if row["name"] == LIMIT}
    lines = [["LIMIT, ms", *(f"{limits[shape]:.3g}" for shape in shapes)]]
    lines += [[name, *(cells.get((name, shape), "–") for shape in shapes)] for name in _names(rows)]
    return markdown(["× LIMIT (spread)", *shapes], lines)


def _plot(results: list[dict[str, Any]]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    results = [r for r in results if len({row["shape"] for row in r["rows"]}) > 1]
    results = [r for r in results if any(not row["shape"].endswith(",10") for row in r["rows"])]
    figure, axes = plt.subplots(
        len(results), 1, figsize=(9, 3.2 * len(results)), squeeze=False, layout="constrained"
    )
    for axis, result in zip(axes[:, 0], results, strict=True):
        rows = [row for row in result["rows"] if not row["shape"].startswith("8,")]
        shapes = list(dict.fromkeys(row["shape"] for row in rows))
        ratios = {n: [_ratio(rows, n, s) or 1.0 for s in shapes] for n in _names(rows)}
        names = [n for n, found in ratios.items() if min(found) > 0.5 and max(found) < 20]
        axis.set_prop_cycle(color=plt.get_cmap("tab20").colors)
        for number, name in enumerate(names):
            places = [i + 0.8 * number / len(names) for i in range(len(shapes))]
            heights = [_ratio(rows, name, shape) or 0 for shape in shapes]
            axis.bar(places, heights, 0.8 / len(names), align="edge", label=name)
        axis.axhline(1, color="black", linewidth=0.8)
        axis.set_xticks([i + 0.4 for i in range(len(shapes))], shapes)
        axis.set_ylabel("× LIMIT")
        axis.set_title(_title(result), loc="left")
        axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
    figure.savefig(RESULTS / "performance.tmp.png", dpi=120)
    (RESULTS / "performance.tmp.png").replace(RESULTS / "performance.png")
    plt.close(figure)


def _names(rows: list[dict[str, Any]]) -> list[str]:
    return [name for name in dict.fromkeys(row["name"] for row in rows) if name != LIMIT]


def _ratio(rows: list[dict[str, Any]], name: str, shape: str) -> float | None:
    return next((r["ratio_min"] for r in rows if r["name"] == name and r["shape"] == shape), None)


if __name__ == "__main__":
    main()
