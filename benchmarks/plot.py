"""Bars of output tokens/s by engine, our own with their roofline: python -m benchmarks.plot engine.json [-o engine.svg]

An SVG of plain shapes that reads on light and on dark ground.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from benchmarks.arguments import parser_of, refusing

WIDTH, LABELS, FIGURES = 800, 110, 220
"""Pixels: of all, of the names on the left, of the figures behind the longest bar."""
BAR, PITCH, HEAD = 18, 30, 44
_READ = {"workload", "engine", "output_tokens_per_s", "ratio", "details", "failed"}
OURS, PEERS, LINE = "#2f7ed8", "#9aa5b1", "#d9534f"
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#24292f}.dim{fill:#6e7781}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#9198a1}}"
)


class NoRows(Exception):
    """The file is none of benchmarks.engine's."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """As benchmarks.engine writes them. Raises OSError, NoRows."""
    try:
        rows = json.loads(path.read_bytes())
    except ValueError as error:
        raise NoRows(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row.keys() >= _READ for row in rows):
        raise NoRows(f"{path} holds no rows of benchmarks.engine")
    return rows


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """`rows` as benchmarks.engine writes them; one panel for each workload."""
    parts, top = [], 0
    for workload, panel in groupby(rows, key=lambda row: row["workload"]):
        drawn, height = _panel(workload, list(panel), top)
        parts += drawn
        top += height
    size = f'width="{WIDTH}" height="{top}" viewBox="0 0 {WIDTH} {top}"'
    return "\n".join([f'<svg xmlns="http://www.w3.org/2000/svg" {size}>', f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def _panel(workload: str, rows: Sequence[Mapping[str, Any]], top: int) -> tuple[list[str], int]:
    """The shapes, and how high they are."""
    longest = max([0.0, *(row["output_tokens_per_s"] or 0.0 for row in rows), *(_roofline(row) or 0.0 for row in rows)])
    scale = (WIDTH - LABELS - FIGURES) / longest if longest else 0.0
    parts = [_text(0, top + 18, f"{workload}: output tokens/s")]
    if any(map(_roofline, rows)):
        parts.append(_text(LABELS + 130, top + 18, "red: the roofline", dim=True))
    for place, row in enumerate(rows):
        parts += _bar(row, top + HEAD - 10 + place * PITCH, scale)
    return parts, HEAD + len(rows) * PITCH


def _bar(row: Mapping[str, Any], y: int, scale: float) -> list[str]:
    speed, roofline = row["output_tokens_per_s"], _roofline(row)
    parts = [_text(LABELS - 8, y + 14, row["engine"], anchor="end")]
    if speed is None:
        return [*parts, _text(LABELS + 4, y + 14, "failed" if row["failed"] else "left out", dim=True)]
    width, said = speed * scale, f"{speed:,.0f}"
    if row["ratio"] is not None:
        said += f" · {row['ratio']:.2f}×"
    colour = OURS if row["engine"].startswith("paged") else PEERS
    parts.append(f'<rect x="{LABELS}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2" fill="{colour}"/>')
    end = LABELS + width
    if roofline is not None:
        x = LABELS + roofline * scale
        line = f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{y - 4}" y2="{y + BAR + 4}" stroke="{LINE}" stroke-width="2" stroke-dasharray="4 2"/>'
        parts.append(line)
        said += f" · {100 * speed / roofline:.0f} % of {roofline:,.0f}"
        end = max(end, x)
    return [*parts, _text(end + 8, y + 14, said)]


def _roofline(row: Mapping[str, Any]) -> float | None:
    return row["details"]["roofline_tokens_per_s"] if row["details"] else None


def _text(x: float, y: float, text: str, *, anchor: str = "start", dim: bool = False) -> str:
    kind = ' class="dim"' if dim else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{kind}>{escape(text)}</text>'


def main() -> None:
    parser = parser_of("benchmarks.plot", __doc__)
    parser.add_argument("rows", type=Path, help="what benchmarks.engine wrote")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="default: beside the rows")
    arguments = parser.parse_args()
    out = arguments.out or arguments.rows.with_suffix(".svg")
    with refusing(parser, OSError, NoRows):
        out.write_text(plot(read_rows(arguments.rows)), encoding="utf-8")
    print(out)


if __name__ == "__main__":
    main()
