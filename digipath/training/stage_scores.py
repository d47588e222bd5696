"""Scores of forests on nodes that they have not seen, beside the size rule's, and how they are told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from digipath.measure.forests import FORESTS, majority, votes_of
from digipath.measure.pn_stage import CATEGORIES, OUTSIDE, patient_stage
from digipath.measure.pn_tables import quadratic_kappa

TOGETHER, SIZE_RULE = "vote of the four forests", "size rule"
DIGITS = 4
NOTICE = "For research use only. Not for diagnostic procedures."

Ints = NDArray[np.intp]


def stage_scores(
    by_forest: NDArray[np.float64], categories: Ints, by_size: Ints, patients: Sequence[str] | None
) -> dict[str, Any]:
    """Scores of the vote, of the size rule and of each forest.

    Args:
        by_forest: (n, 4 forests, 4 categories) of forests that have not seen the node.
        categories: (n,) the truth, by_size: (n,) the size rule's answer, both as indices in `CATEGORIES`.
        patients: (n,) or None.

    Returns:
        `categories`: who → kappa (quadratic weights), accuracy, and confusion: truth → answer → nodes.
        `patients`: None, or their count, how many are outside the table, and who → kappa and accuracy of the stage.
    """
    votes = votes_of(by_forest)
    answers = {TOGETHER: majority(votes), SIZE_RULE: by_size, **dict(zip(FORESTS, votes.T, strict=True))}
    return {
        "categories": {who: _category_scores(categories, answer) for who, answer in answers.items()},
        "patients": None if patients is None else _patient_scores(categories, answers, patients),
    }


def named_scores(scores: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The scores that a card quotes, by name."""
    parts = {"category of nodes": scores["categories"], "stage of patients": scores["patients"] or {}}
    return [
        (f"{metric} of the {subject}, {who}", parts[subject][who][key])
        for subject in parts
        for who in (TOGETHER, SIZE_RULE)
        for key, metric in (("kappa", "quadratic kappa"), ("accuracy", "accuracy"))
        if who in parts[subject]
    ]


def summary_md(record: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    """What scores.json says, to be read: tables in Markdown."""
    head = ("answer of", "quadratic kappa", "accuracy")
    parts = [f"# {record['name']}", NOTICE, f"{record['data']}. Scores by {record['split']}."]
    parts += ["## Category of nodes", _table(head, _score_rows(record["categories"]))]
    for who in (TOGETHER, SIZE_RULE):
        rows = [(name, *row.values()) for name, row in record["categories"][who]["confusion"].items()]
        parts.append(_table((f"truth \\ {who}", *CATEGORIES), rows))
    if (patients := record["patients"]) is not None:
        stages = {who: patients[who] for who in (TOGETHER, SIZE_RULE) if who in patients}
        parts += [f"## Stage of {patients['count']} patients", _table(head, _score_rows(stages))]
        if patients["outside"]:
            parts.append(f"{patients['outside']} patients are outside the table of stages and not scored.")
    parts += ["## Quantiles of sets", f"{card['conformal']['method']}."]
    parts += [_table(("level", "nodes", "patients"), _quantile_rows(card["conformal"]))]
    return "\n\n".join([*parts, "## Limits", "\n".join(f"- {limit}" for limit in card["limits"])]) + "\n"


def _score_rows(scores: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(who, f"{one['kappa']:.3f}", f"{one['accuracy']:.3f}") for who, one in scores.items()]


def _category_scores(truth: Ints, answer: Ints) -> dict[str, Any]:
    counts = np.zeros((len(CATEGORIES),) * 2, int)
    np.add.at(counts, (truth, answer), 1)
    rows = (dict(zip(CATEGORIES, row, strict=True)) for row in counts.tolist())
    return {
        "kappa": round(_kappa(truth, answer), DIGITS),
        "accuracy": round(float((truth == answer).mean()), DIGITS),
        "confusion": dict(zip(CATEGORIES, rows, strict=True)),
    }


def _kappa(truth: Ints, answer: Ints) -> float:
    """Cohen's kappa with quadratic weights; where both are one category throughout, it is 1."""
    from sklearn.metrics import cohen_kappa_score

    if len({*truth.tolist(), *answer.tolist()}) == 1:
        return 1.0
    return float(cohen_kappa_score(truth, answer, labels=range(len(CATEGORIES)), weights="quadratic"))


def _patient_scores(truth: Ints, answers: Mapping[str, Ints], patients: Sequence[str]) -> dict[str, Any]:
    names = np.asarray(patients, np.str_)
    stages = {who: _stages(index, names) for who, index in {"truth": truth, **answers}.items() if who not in FORESTS}
    inside = [name for name in stages["truth"] if OUTSIDE not in {by[name] for by in stages.values()}]
    scores: dict[str, Any] = {"count": len(stages["truth"]), "outside": len(stages["truth"]) - len(inside)}
    for who in (TOGETHER, SIZE_RULE):
        if inside:
            one, other = ([by[name] for name in inside] for by in (stages["truth"], stages[who]))
            right = np.mean([a == b for a, b in zip(one, other, strict=True)])
            scores[who] = {"kappa": round(quadratic_kappa(one, other), DIGITS), "accuracy": round(float(right), DIGITS)}
    return scores


def _stages(index: Ints, names: NDArray[np.str_]) -> dict[str, str]:
    return {str(name): patient_stage([CATEGORIES[one] for one in index[names == name]]) for name in np.unique(names)}


def _quantile_rows(conformal: Mapping[str, Any]) -> list[tuple[str, ...]]:
    patients = {} if conformal["patients"] is None else conformal["patients"]["quantiles"]
    return [
        (level, _shown(value), _shown(patients[level]) if patients else "patients unknown")
        for level, value in conformal["nodes"]["quantiles"].items()
    ]


def _shown(quantile: float | None) -> str:
    return "too few to exclude anything" if quantile is None else f"{quantile:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
