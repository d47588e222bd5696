"""Small pieces of HTML: every function escapes the text it is given and returns finished markup."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from PIL import Image

from digipath.report.document import PLOT

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

JPEG_QUALITY = 82


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


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: Sequence[str] = ()) -> str:
    """A table whose first column and those named in `texts` are text and whose others are numbers."""
    kinds = ["" if not index or name in texts else ' class="number"' for index, name in enumerate(head)]
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


def plot(figure: Figure, caption: str, numbers: str = "") -> str:
    """A figure that the page draws, with what it shows; `numbers` (a table) stands below it, folded."""
    data = str(figure.to_json()).replace("<", "\\u003c")  # so that no text in it can end the script
    folded = f"<details><summary>The numbers</summary>{numbers}</details>" if numbers else ""
    return (
        f'<figure {PLOT}><div class="canvas" role="img" aria-label="{escape(caption)}"></div>'
        f'<script type="application/json">{data}</script><figcaption>{escape(caption)}</figcaption>{folded}</figure>'
    )


def mm2(value: float | None) -> str:
    """An area as a reader would write it."""
    if value is None:
        return "size unknown"
    if 0 < value < 0.01:
        return f"{value * 1e6:,.0f} µm²"
    return f"{value:,.2f} mm²" if value >= 1 else f"{value:.3g} mm²"


def share(value: float | None) -> str:
    """A share as a reader would write it."""
    return "none" if value is None else f"{value:.2%}"


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
