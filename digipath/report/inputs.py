"""What the pages show: frozen values of plain numbers and outlines, filled by the sentences.

Probabilities and shares lie in [0, 1], burdens in percent. None stands for a number that does not exist.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import shapely


@dataclass(frozen=True)
class MetastasisInput:
    """A metastasis: one region, or fragments joined across small gaps.

    Attributes:
        category: by size. diameter_um: longest, over all its fragments; area_um2: of the fragments.
        fragments: labels of its lesions.
    """

    category: str
    diameter_um: float
    area_um2: float
    fragments: Sequence[int]


@dataclass(frozen=True)
class MetastasesInput:
    """All metastases of a slide.

    Attributes:
        found: longest first. category: of the slide; None where the resolution is unknown.
        limits_um: diameters at which categories part; notes: how they were measured, and what was not.
    """

    found: Sequence[MetastasisInput]
    category: str | None
    limits_um: Sequence[float]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class BurdenRuleInput:
    """Tumour burden by one rule for the whole tumour.

    Attributes:
        name: of the rule; percent: viable ∩ whole / whole, in [0, 100], None where there is no whole tumour.
        viable_mm2, whole_mm2: areas; None where the resolution is unknown.
        interval: (low, high) percent, or None.
        hulls_l0: outlines in level-0 pixels.
    """

    name: str
    percent: float | None
    viable_mm2: float | None
    whole_mm2: float | None
    interval: tuple[float, float] | None
    hulls_l0: Sequence[shapely.Geometry] = ()


@dataclass(frozen=True)
class BurdenInput:
    """Tumour burden of a slide by each rule.

    Attributes:
        level: of the intervals; conformal: False where they hold the spread only and no stated coverage.
        tissue_l0: outlines of the pieces of tissue; mpp: µm per pixel that it was measured at.
        notes: shown as they are.
    """

    rules: Sequence[BurdenRuleInput]
    level: float
    conformal: bool
    mpp: float | None
    tissue_l0: Sequence[shapely.Geometry] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class LookHereInput:
    """A region whose uncertainty could change a readout, in the order to be looked at.

    Attributes:
        outline_l0, centre_l0: level-0 pixels; area_um2: None where the resolution is unknown.
        mean_probability, mean_uncertainty: over the region (a standard deviation).
        category_with, category_without: of the slide, if the region is tumour and if it is not; None: not measured.
        burden_change: percentage points; None: not measured.
        reason: in words.
    """

    outline_l0: shapely.Geometry
    centre_l0: tuple[float, float]
    area_um2: float | None
    mean_probability: float
    mean_uncertainty: float
    category_with: str | None
    category_without: str | None
    burden_change: float | None
    reason: str


@dataclass(frozen=True)
class NodeInput:
    """One lymph node (slide) of a patient.

    Attributes:
        name: of the slide; any text.
        category: by the forests' vote; probabilities: by category, in the order to be shown, sum 1.
        votes: forest's name → its category.
        size_category: by the size rule; size_um: longest diameter of the largest metastasis.
        prediction_set: categories that cannot be excluded at the page's level.
        features: by name, in the order to be shown.
        complete: False where tissue that was asked for has no prediction.
        notes: of this node, for instance a missing resolution.
    """

    name: str
    category: str
    probabilities: Mapping[str, float]
    votes: Mapping[str, str]
    size_category: str
    size_um: float | None = None
    prediction_set: Sequence[str] = ()
    features: Mapping[str, float] = field(default_factory=dict)
    complete: bool = True
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class StageInput:
    """The pN stage of one patient.

    Attributes:
        patient: the title.
        stage: by the forests; stage_by_size: by the size rule.
        probabilities: of each stage, in the order to be shown, the nodes taken as independent.
        stage_set: stages that cannot be excluded at `level`; level: of all sets, None without sets.
        nodes: in the user's order.
        training_range: feature → its values at `quantiles` among the forests' training data.
        quantiles: rising, in [0, 1]; 0 and 1 are the training data's least and greatest value.
        card: of the forests; run: the record (`versions`, `settings`, `written`); notes: shown as they are.
    """

    patient: str
    stage: str
    stage_by_size: str
    probabilities: Mapping[str, float]
    nodes: Sequence[NodeInput]
    stage_set: Sequence[str] = ()
    level: float | None = None
    training_range: Mapping[str, Sequence[float]] = field(default_factory=dict)
    quantiles: Sequence[float] = ()
    card: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class ReliabilityInput:
    """A reliability diagram: bins of the predicted probability.

    Attributes:
        predicted: mean prediction of each bin, observed: share of positive pixels in it; None where the
            bin is empty. counts: its pixels.
        expected_calibration_error, brier: of the same pixels.
    """

    predicted: Sequence[float | None]
    observed: Sequence[float | None]
    counts: Sequence[int]
    expected_calibration_error: float | None = None
    brier: float | None = None


@dataclass(frozen=True)
class ErrorFindingInput:
    """How well one uncertainty finds wrong pixels.

    Attributes:
        auroc: where it was measured ("all pixels", "within tumour", "away from borders") → AUROC of the
            uncertainty for wrong pixels.
        coverage: share of pixels kept, the most certain first; risk: share of wrong ones among the kept.
        area: under the risk–coverage curve.
    """

    auroc: Mapping[str, float | None]
    coverage: Sequence[float] = ()
    risk: Sequence[float] = ()
    area: float | None = None


@dataclass(frozen=True)
class EvaluationInput:
    """Scores of networks on images with truth.

    Attributes:
        title: for instance the weights' name.
        scores: as `digipath.evaluate` returns them; `images` (Dice by name) becomes a table of its own.
        reliability: by name, for instance "as trained" and "calibrated".
        error_finding: by the uncertainty's name.
        calibration: a network's name → its numbers (temperature …).
        run, cards, notes: as in `ReportInput`.
    """

    title: str
    scores: Mapping[str, Any]
    reliability: Mapping[str, ReliabilityInput] = field(default_factory=dict)
    error_finding: Mapping[str, ErrorFindingInput] = field(default_factory=dict)
    calibration: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    cards: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()
