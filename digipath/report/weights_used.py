"""Sections on the weights that a result comes from: their cards, and how well they are calibrated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from digipath.report import markup

SHOWN = ("task", "licence", "citation", "sha256", "sha256_reason", "classes", "training", "intended_use")


def cards(used: Sequence[Mapping[str, Any]]) -> str:
    """What every card says; nothing without cards."""
    return markup.section("Weights", *map(_card, used))


def _card(card: Mapping[str, Any]) -> str:
    facts = {name: card[name] for name in SHOWN if card.get(name) is not None}
    return (
        f"<h3>{escape(str(card['name']))}</h3>{markup.pairs(facts)}"
        + "".join(_measured(card.get("metrics", ())))
        + (f"<p>Limits</p>{markup.bullets(card['limits'])}" if card.get("limits") else "")
    )


def _measured(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table for each split that something was measured on."""
    by_split: dict[str, list[tuple[str, str, str]]] = {}
    for metric in metrics:
        spread = f" ± {metric['spread']:.2g}" if metric.get("spread") else ""
        row = (str(metric["name"]), str(metric["data"]), f"{metric['value']:.3g}{spread}")
        by_split.setdefault(str(metric["split"]), []).append(row)
    return [
        markup.paragraph(split, "soft") + markup.table(("Measured", "On", "Value"), rows, ("Measured", "On"))
        for split, rows in by_split.items()
    ]


def calibration(used: Sequence[Mapping[str, Any]], *, calibrated: bool) -> str:
    """How well probabilities agree with what was observed, as the cards measured it; nothing without cards."""
    if not used:
        return ""
    measured = {str(card["name"]): card["calibration"] for card in used if card.get("calibration")}
    if not measured:
        return markup.section("Calibration", markup.paragraph("The cards of these weights state no calibration."))
    shown = (
        "Each network's logits are divided by its temperature, fitted on data it was not trained on."
        if calibrated
        else "Not applied, as asked: these probabilities are the networks' own."
    )
    return markup.section("Calibration", markup.paragraph(shown), *_facts(measured))


def _facts(measured: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"<h3>{escape(name)}</h3>{markup.pairs(facts)}" for name, facts in measured.items()]
