"""The page around the content: it stands alone, and no script runs in it but the two that we put there.

The Content-Security-Policy names the SHA-256 of plotly.js and of our own `DRAW` and allows no other script,
so text from a file name or a card can never run, even if it were to break out of its place. Figures are data:
JSON in a `<script type="application/json">`, which no browser executes, with every `<` written as `\u003c`.
plotly.js stands in a page at most once, as it comes in the plotly package (4.8 MB), and only where there is a plot.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from html import escape

PLOT = 'class="plot"'  # marks a figure that `DRAW` draws
NO_SCRIPT = "<noscript><p>Plots are drawn by a script; all their numbers stand in the tables.</p></noscript>\n"

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
td { max-width: 22rem; overflow-wrap: break-word; } tbody th + td { max-width: none; overflow-wrap: anywhere; }
td.number, th.number { text-align: right; } td.number { white-space: nowrap; } th { vertical-align: bottom; }
tbody th { vertical-align: top; }
.plot { margin: 1rem 0; max-width: 44rem; break-inside: avoid; }
.canvas { display: none; } .drawn .canvas { display: block; }
.pictures .plot { margin: 0; }
details { margin-top: .75rem; border-top: 1px solid var(--line); padding-top: .75rem; }
summary { cursor: pointer; font-weight: 600; }
@media (max-width: 40rem) { th, td { padding-right: .8rem; } .figures { grid-template-columns: 1fr 1fr; }
  .figures dd { font-size: 1.1rem; } }
@media print { body { max-width: none; padding: 0; } .scroll { overflow: visible; } table { font-size: .72rem; }
  th, td { padding-right: .7rem; } .modebar { display: none; } details::details-content { content-visibility: visible; }
  h2, h3 { break-after: avoid; } figure { break-inside: avoid; } .pictures { grid-template-columns: 1fr 1fr; } }
"""

DRAW = """
(() => {
  "use strict";
  const light = { ink: "#1f2328", soft: "#5b6370", line: "#d8dce2" };
  const dark = { ink: "#e6e8eb", soft: "#a0a8b3", line: "#343a42" };
  const darkness = matchMedia("(prefers-color-scheme: dark)");
  const config = {
    displaylogo: false, responsive: true, modeBarButtons: [["toImage", "resetScale2d"]],
    toImageButtonOptions: { format: "svg", filename: "digipath" },
  };
  const axis = (theme) => ({
    gridcolor: theme.line, linecolor: theme.soft, tickcolor: theme.soft, zerolinecolor: theme.line, automargin: true,
  });
  const template = (theme) => ({ layout: {
    font: { color: theme.ink, family: "system-ui, sans-serif", size: 13 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    xaxis: axis(theme), yaxis: axis(theme), modebar: { bgcolor: "rgba(0,0,0,0)", color: theme.soft },
    shapedefaults: { line: { color: theme.soft } },
  } });
  const draw = (theme) => {
    for (const plot of document.querySelectorAll("figure.plot")) {
      const { data, layout } = JSON.parse(plot.querySelector("script").textContent);
      plot.classList.add("drawn");
      Plotly.react(plot.querySelector(".canvas"), data, { ...layout, template: template(theme) }, config);
    }
  };
  const asSeen = () => draw(darkness.matches ? dark : light);
  darkness.addEventListener("change", asSeen);
  addEventListener("beforeprint", () => draw(light));
  addEventListener("afterprint", asSeen);
  asSeen();
})();
"""


def document(title: str, body: str) -> str:
    """A whole page that needs nothing beside itself; plots are drawn where `body` has any (`markup.plot`)."""
    scripts = (plotly_js(), DRAW) if PLOT in body else ()
    ending = "".join(f"<script>{script}</script>\n" for script in scripts)
    beginning = NO_SCRIPT if scripts else ""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(*scripts)}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{beginning}{body}\n{ending}</body>\n</html>\n"
    )


def policy(*scripts: str) -> str:
    """The Content-Security-Policy under which these inline scripts run, and nothing else runs or is fetched."""
    hashes = " ".join(f"'{_hash(script)}'" for script in scripts) or "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; img-src data:; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def plotly_js() -> str:
    """plotly.js as the plotly package brings it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs().replace("\r\n", "\n")  # as a browser reads it, and so hashes it


@cache
def _hash(script: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
