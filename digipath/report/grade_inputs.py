"""What the pages on grades show: frozen values of plain numbers and arrays, filled by the sentences.

Classes stand in rising order of malignancy, and everything that is said of each class follows their order. A tile is
called its most probable class, of several equal ones the most malignant.
Probabilities, shares and levels of confidence lie in [0, 1]. None stands for a number that does not exist.
Maps have one value for each tile of a lattice: (R, C), or (R, C, K) for K classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[np.generic]


@dataclass(frozen=True)
class TileFrame:
    """Where tiles lie: tile (r, c) covers level-0 pixels x in [c·side, (c + 1)·side), y in [r·side, (r + 1)·side).

    Attributes:
        side_l0: level-0 pixels along a tile's side; the last tiles may stick out of the slide.
        l0_per_overview_px: level-0 pixels per pixel of the overview.
        overview_mpp: µm per pixel of the overview, for the scale bar; None where unknown.
    """

    side_l0: float
    l0_per_overview_px: float
    overview_mpp: float | None = None


@dataclass(frozen=True)
class ReadoutInput:
    """One slide (or case) read in three ways from the probabilities of its tiles.

    Attributes:
        mean_probabilities: of each class, mean over the tiles, sum 1; mean_grade: the class with the highest.
        vote_shares: share of the tiles that are called each class, which is their most probable one; majority_grade:
            the class with the most.
        highest_grade: the most malignant class that at least `least_share` of the tiles are called with a
            probability of at least `confidence`; None: no class is.
        confident_shares: share of the tiles that are called each class with at least `confidence`; empty: not told.
        areas_mm2: of the tissue in the tiles that are called each class; None where unknown or where they say nothing.
        confidences: rising; shares_at: one row for each of them, the share of the tiles that are called each class
            with at least this probability.
    """

    mean_probabilities: Sequence[float]
    mean_grade: str
    vote_shares: Sequence[float]
    majority_grade: str
    highest_grade: str | None
    least_share: float
    confidence: float
    confident_shares: Sequence[float] = ()
    areas_mm2: Sequence[float] | None = None
    confidences: Sequence[float] = ()
    shares_at: Sequence[Sequence[float]] = ()


@dataclass(frozen=True)
class TileLedger:
    """What became of the tiles that hold any tissue, or of the images of a folder of tiles.

    Attributes:
        graded, left_out, unreadable, not_drawn: tiles; left out are those with less than `least_tissue` tissue in
            them, not drawn those that networks of bags did not look at.
        least_tissue: in [0, 1]; None: of a folder, where nobody looks for tissue. tile_mm2: area of a tile, None where
            unknown.
    """

    graded: int
    left_out: int = 0
    unreadable: int = 0
    least_tissue: float | None = 0.9
    tile_mm2: float | None = None
    not_drawn: int = 0

    @property
    def total(self) -> int:
        """All tiles that hold any tissue, or all images."""
        return self.graded + self.left_out + self.unreadable + self.not_drawn


@dataclass(frozen=True)
class TilePicture:
    """One tile of a gallery.

    Attributes:
        image: (rows, columns, 3) uint8 RGB. probabilities: of each class.
        place: where it lies, in words.
        heat: (rows, columns) of any size in [0, 1], where the network looked; None: not asked for.
    """

    image: NDArray[np.uint8]
    probabilities: Sequence[float]
    place: str = ""
    heat: Array | None = None


@dataclass(frozen=True)
class GalleryInput:
    """Tiles of one predicted class, the most certain or the least certain ones first.

    Attributes:
        class_name: the tiles' most probable class; certain: True for its most certain tiles.
        tiles: in their order.
    """

    class_name: str
    certain: bool
    tiles: Sequence[TilePicture]


@dataclass(frozen=True)
class BagInput:
    """What networks say that see many tiles of a slide at once (multiple-instance learning).

    Attributes:
        grade: by the hard vote over the groups of one member, or the soft vote of several; probabilities: of each
            class, the members' mean.
        votes: member's name → share of its groups of tiles that vote for each class; without those that saw none.
        groups: member's name → how many groups it saw, and of how many tiles at most. notes: shown as they are.
    """

    grade: str
    probabilities: Sequence[float]
    votes: Mapping[str, Sequence[float]]
    groups: Mapping[str, tuple[int, int]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class GradeInput:
    """The grade of a slide, of an image or of a folder of tiles.

    Attributes:
        slide: its name, any text. classes: K names.
        readout: None where no tile could be graded: then there is no grade.
        tiles: the ledger.
        overview: (rows, columns, 3) uint8 RGB; probabilities: (R, C, K), NaN = no prediction; coverage: (R, C) codes
            of `digipath.values`; frame: where they lie. None, all four, where tiles lie on no slide.
        picture: of the map, where it was drawn before; then the page of a case needs none of these four.
        tile_names: name → probabilities of each class, for a folder of tiles.
        gallery: most and least certain tiles.
        uncertainty: maps (R, C) by name. attention: (R, C) ≥ 0, NaN where a tile was not looked at.
        bags: None where no network of that kind was used.
        run: the record; its `settings`, `slide`, `versions` and `timings_s` are shown where present.
        cards: of the weights used. notes: shown as they are.
    """

    slide: str
    classes: Sequence[str]
    readout: ReadoutInput | None
    tiles: TileLedger
    overview: NDArray[np.uint8] | None = None
    probabilities: NDArray[np.floating] | None = None
    coverage: NDArray[np.uint8] | None = None
    frame: TileFrame | None = None
    picture: Image.Image | None = None
    tile_names: Mapping[str, Sequence[float]] = field(default_factory=dict)
    gallery: Sequence[GalleryInput] = ()
    uncertainty: Mapping[str, Array] = field(default_factory=dict)
    attention: Array | None = None
    bags: BagInput | None = None
    notes: Sequence[str] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    cards: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class CaseGradeInput:
    """The grade of a case that has several slides.

    Attributes:
        case: its name. slides: in the user's order, each with the same classes.
        readout: over the case; None: no slide could be graded. rule: how the slides became one, in words.
        run, cards, notes: as in `GradeInput`.
    """

    case: str
    classes: Sequence[str]
    slides: Sequence[GradeInput]
    readout: ReadoutInput | None
    rule: str
    notes: Sequence[str] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    cards: Sequence[Mapping[str, Any]] = ()


Measured = tuple[float | None, tuple[float, float] | None]  # a value and its interval (low, high)


@dataclass(frozen=True)
class RocInput:
    """A ROC curve: rising rates; area: under it, None where it is undefined."""

    false_positive_rate: Sequence[float]
    true_positive_rate: Sequence[float]
    area: float | None


@dataclass(frozen=True)
class LevelInput:
    """Scores at one level.

    Attributes:
        level: "tile", "slide" or "case", or a question asked of it ("slide: grade 4 against the rest").
        classes: that were told apart; count: tiles, slides or cases that were scored.
        scores: name → value, None: undefined; intervals: name → (low, high), None: not measured.
        confusion: K × K counts, a row for each true class, a column for each predicted one.
        roc: curve of each class (one against the rest), "macro" and others by name.
        truth: index of the true class of each; probabilities: (n, K) of the same; both for plots, may be empty.
        names: of the same, to be listed; empty: no list.
        calls: what each was called, where that may not be its most probable class; empty: that class.
        by_class: class → measure of it against the rest → value and interval, as `scores` and `intervals`.
    """

    level: str
    classes: Sequence[str]
    count: int
    scores: Mapping[str, float | None]
    intervals: Mapping[str, tuple[float, float] | None] = field(default_factory=dict)
    confusion: Sequence[Sequence[int]] = ()
    roc: Mapping[str, RocInput] = field(default_factory=dict)
    truth: Sequence[int] = ()
    probabilities: Sequence[Sequence[float]] = ()
    names: Sequence[str] = ()
    calls: Sequence[int] = ()
    by_class: Mapping[str, Mapping[str, Measured]] = field(default_factory=dict)


@dataclass(frozen=True)
class ComparisonInput:
    """One measure over repeated runs of several ways to train.

    Attributes:
        title: what was varied ("batch size"); measure: what the numbers are.
        runs: way → the measure in each of its runs.
        p_values: (first way, second way, p) of `test`; p None: undefined.
    """

    title: str
    measure: str
    runs: Mapping[str, Sequence[float]]
    p_values: Sequence[tuple[str, str, float | None]] = ()
    test: str = ""


@dataclass(frozen=True)
class AblationRow:
    """One row of an ablation: what was left in, its value and an interval (low, high), None where unknown."""

    name: str
    value: float | None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class AblationInput:
    """One measure for several variants, for instance magnifications, in the order to be shown."""

    title: str
    measure: str
    rows: Sequence[AblationRow]


@dataclass(frozen=True)
class GradingInput:
    """Scores of graders on slides with truth.

    Attributes:
        title: for instance the weights' name. classes: of the grader.
        levels: in the order to be shown. interval_level: of all intervals (0.95); resampled: what the bootstrap drew.
        comparisons, ablations: of several runs.
        run, cards, notes: as in `GradeInput`.
    """

    title: str
    classes: Sequence[str]
    levels: Sequence[LevelInput]
    interval_level: float | None = None
    resampled: str = "cases"
    comparisons: Sequence[ComparisonInput] = ()
    ablations: Sequence[AblationInput] = ()
    notes: Sequence[str] = ()
    run: Mapping[str, Any] = field(default_factory=dict)
    cards: Sequence[Mapping[str, Any]] = ()
