"""Small pieces of HTML: every function escapes the text it is given and returns finished markup."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from PIL import Image

JPEG_QUALITY = 82

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1f2328; --soft: #5b6370; --line: #d8dce2; --panel: #f5f6f8;
  --accent: #2a788e; --alert-ink: #7a1200; --alert: #ffe9e2; --alert-line: #c8371b; }
@media (prefers-color-scheme: dark) { :root { --paper: #15181c; --ink: #e6e8eb; --soft: #a0a8b3; --line: #343a42;
  --panel: #1e2227; --accent: #4fb3c9; --alert-ink: #ffd9cf; --alert: #4a1a10; --alert-line: #ff7a5c; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .75rem 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 2.25rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .4rem 0; max-width: 46rem; }
.soft, figcaption { color: var(--soft); font-size: .9rem; }
.notice { border-bottom: 1px solid var(--line); padding-bottom: .6rem; max-width: none; font-weight: 600; }
footer.notice { border: 0; border-top: 1px solid var(--line); padding: .6rem 0 0; margin-top: 2.5rem; }
.alert { border: 2px solid var(--alert-line); background: var(--alert); color: var(--alert-ink); border-radius: 6px;
  padding: .8rem 1rem; margin: 1rem 0; }
.alert strong { font-size: 1.1rem; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1.25rem 0;
  padding: 0; }
.figures div { background: var(--panel); border-radius: 6px; padding: .7rem .9rem; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: .1rem 0 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(26rem, 100%), 1fr)); gap: 1.25rem;
  align-items: start; }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; border: 1px solid var(--line); border-radius: 4px; background: #fff; }
figcaption { margin-top: .4rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .95rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem 1.5rem .3rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
tbody th { font-weight: 400; color: var(--soft); white-space: nowrap; }
td { overflow-wrap: anywhere; }
td.number, th.number { text-align: right; white-space: nowrap; }
details { margin-top: .75rem; border-top: 1px solid var(--line); padding-top: .75rem; }
summary { cursor: pointer; font-weight: 600; }
svg { display: block; width: 100%; max-width: 40rem; height: auto; }
svg text { fill: var(--soft); font-size: 12px; }
svg .bar { fill: var(--accent); } svg .axis { stroke: var(--soft); }
svg .mark { stroke: var(--alert-line); stroke-dasharray: 4 3; }
@media (max-width: 40rem) { th, td { padding-right: .8rem; } .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 1.1rem; } }
@media print { body { max-width: none; padding: 0; } details { display: block; } }
"""


def document(title: str, body: str) -> str:
    """A whole page that needs nothing beside itself."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Nothing may be fetched and no script may run, whatever a file name holds.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def section(title: str, *content: str) -> str:
    """A heading and what follows it; nothing if nothing follows."""
    inside = "\n".join(part for part in content if part)
    return f"<section>\n<h2>{escape(title)}</h2>\n{inside}\n</section>" if inside else ""


def paragraph(text: str, kind: str = "") -> str:
    """One paragraph."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def bullets(items: Iterable[str]) -> str:
    """A list; nothing if it is empty."""
    inside = "".join(f"<li>{escape(item)}</li>" for item in items)
    return f"<ul>{inside}</ul>" if inside else ""


def pairs(values: Mapping[str, Any]) -> str:
    """A table of names and values; nothing if it is empty."""
    rows = "".join(
        f'<tr><th scope="row">{escape(label(name))}</th><td>{escape(words(value))}</td></tr>'
        for name, value in values.items()
    )
    return f'<div class="scroll"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column is text and whose others are numbers."""
    kinds = ["", *[' class="number"'] * (len(head) - 1)]
    top = "".join(f'<th scope="col"{kind}>{escape(cell)}</th>' for kind, cell in zip(kinds, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{k}>{escape(cell)}</td>" for k, cell in zip(kinds, row, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def figures(values: Mapping[str, str]) -> str:
    """The key numbers, large."""
    boxes = (f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in values.items())
    inside = "".join(boxes)
    return f'<dl class="figures">{inside}</dl>'


def picture(image: Image.Image, caption: str) -> str:
    """An image within the page, with what it shows."""
    stream = io.BytesIO()
    image.convert("RGB").save(stream, "JPEG", quality=JPEG_QUALITY, optimize=True)
    data = base64.b64encode(stream.getvalue()).decode()
    size = f'width="{image.width}" height="{image.height}"'
    text = escape(caption)
    return (
        f'<figure><img src="data:image/jpeg;base64,{data}" {size} alt="{text}"><figcaption>{text}</figcaption></figure>'
    )


def histogram(counts: Sequence[int], mark: float, axis: str) -> str:
    """Bars of shares over [0, 1] as SVG, with a dashed line at `mark`."""
    total = sum(counts)
    if not total:
        return ""
    wide, high, left, top = 600, 150, 44, 18
    peak = max(counts)
    step = wide / len(counts)
    bars = "".join(
        f'<rect class="bar" x="{left + i * step + 1:.1f}" y="{top + high - high * count / peak:.1f}" '
        f'width="{step - 2:.1f}" height="{high * count / peak:.1f}"><title>{i / len(counts):.2f} to '
        f"{(i + 1) / len(counts):.2f}: {count / total:.2%}</title></rect>"
        for i, count in enumerate(counts)
    )
    ticks = "".join(
        f'<text x="{left + at * wide:.1f}" y="{top + high + 16}" text-anchor="middle">{at:g}</text>'
        for at in (0, 0.25, 0.5, 0.75, 1)
    )
    at = left + mark * wide
    return (
        f'<svg viewBox="0 0 {left + wide + 16} {top + high + 40}" role="img" aria-label="Histogram: {escape(axis)}">'
        f'{bars}<line class="axis" x1="{left}" y1="{top + high}" x2="{left + wide}" y2="{top + high}"/>{ticks}'
        f'<text x="{left - 6}" y="{top + 6}" text-anchor="end">{peak / total:.0%}</text>'
        f'<line class="mark" x1="{at:.1f}" y1="{top - 4}" x2="{at:.1f}" y2="{top + high}"/>'
        f'<text x="{at:.1f}" y="{top - 7}" text-anchor="middle">threshold {mark:g}</text>'
        f'<text x="{left + wide / 2}" y="{top + high + 34}" text-anchor="middle">{escape(axis)}</text></svg>'
    )


def label(name: str) -> str:
    """A key as words: `map_mpp` → "map mpp"."""
    return name.replace("_", " ")


def words(value: Any) -> str:  # noqa: ANN401 - any JSON
    """A JSON value as a reader would write it."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping):
        return "; ".join(f"{label(str(name))}: {words(inner)}" for name, inner in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(words(inner) for inner in value)
    return str(value)
