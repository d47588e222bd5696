"""Categories by size, stages by Table 3, and the exact distribution of the stage."""

from __future__ import annotations

from itertools import combinations_with_replacement, permutations, product

import numpy as np
import pytest

from digipath.errors import BadInput
from digipath.measure.pn_stage import (
    CATEGORIES,
    OUTSIDE,
    STAGES,
    patient_stage,
    size_category,
    stage_probabilities,
)
from digipath.measure.pn_tables import contradictions, read_stage_table

LETTERS = dict(zip("-imM", CATEGORIES, strict=True))
# All 56 patients of five nodes: - negative, i isolated tumour cells, m micro-metastasis, M macro-metastasis.
TABLE_3 = {
    "pN0": "-----",
    "pN0(i+)": "----i ---ii --iii -iiii iiiii",
    "pN1mi": "----m ---im ---mm --iim --imm --mmm -iiim -iimm -immm -mmmm iiiim iiimm iimmm immmm mmmmm",
    "pN1": (
        "----M ---iM ---mM ---MM --iiM --imM --iMM --mmM --mMM --MMM "
        "-iiiM -iimM -iiMM -immM -imMM -iMMM iiiiM iiimM iiiMM iimmM iimMM iiMMM"
    ),
    "pN2": "-mmmM -mmMM -mMMM -MMMM immmM immMM imMMM iMMMM mmmmM mmmMM mmMMM mMMMM MMMMM",
}
PATIENTS = [(nodes, stage) for stage, patients in TABLE_3.items() for nodes in patients.split()]


def nodes_of(letters):
    return [LETTERS[letter] for letter in letters]


def test_the_table_holds_each_patient_of_five_nodes_once():
    assert sorted(nodes for nodes, _ in PATIENTS) == sorted(map("".join, combinations_with_replacement("-imM", 5)))


@pytest.mark.parametrize(("letters", "stage"), PATIENTS)
def test_patients_of_five_nodes_are_staged_as_table_3_says(letters, stage):
    assert {patient_stage(nodes_of(order)) for order in set(permutations(letters))} == {stage}


@pytest.mark.parametrize(
    ("letters", "stage"),
    [
        ("M", "pN1"),
        ("m", "pN1mi"),
        ("i", "pN0(i+)"),
        ("-" * 30, "pN0"),
        ("M" * 3 + "i" * 20, "pN1"),  # isolated tumour cells are no positive nodes
        ("Mmmm", "pN2"),
        ("M" * 9, "pN2"),
        ("M" + "m" * 8 + "i", "pN2"),
        ("M" * 10, OUTSIDE),
        ("M" + "m" * 9 + "-", OUTSIDE),
        ("m" * 12, "pN1mi"),  # any number, as long as none is a macro-metastasis
    ],
)
def test_any_number_of_nodes_has_a_stage(letters, stage):
    assert patient_stage(nodes_of(letters)) == stage


def test_categories_may_come_from_anything_that_lists_them():
    assert patient_stage(iter(["negative", "macro"])) == "pN1"
    assert patient_stage(np.array(["negative", "macro"])) == "pN1"


@pytest.mark.parametrize("categories", [[], ["negative", "Macro"], ["pN1"], "macro", [None], [3]])
def test_what_is_no_list_of_categories_is_refused(categories):
    with pytest.raises(BadInput):
        patient_stage(categories)


@pytest.mark.real_data
def test_no_patient_of_the_public_table_contradicts_the_rule(shared_data):
    table = read_stage_table(shared_data / "camelyon17" / "stage_labels.csv")
    assert len(table.patients) == 100
    assert all(patient.stage and len(patient.nodes) == 5 for patient in table.patients.values())
    assert contradictions(table) == []


@pytest.mark.parametrize(
    ("diameter_um", "category"),
    [
        (None, "negative"),
        (0.5, "itc"),
        (200, "itc"),
        (200.0001, "micro"),
        (2000, "micro"),
        (2000.001, "macro"),
        (1e5, "macro"),
    ],
)
def test_sizes_have_categories(diameter_um, category):
    assert size_category(diameter_um) == category


@pytest.mark.parametrize("diameter_um", [0, -1, float("nan")])
def test_what_is_no_size_is_refused(diameter_um):
    with pytest.raises(BadInput):
        size_category(diameter_um)


def enumerated(nodes):
    """The distribution by going through all combinations of categories."""
    stages = dict.fromkeys((*STAGES, OUTSIDE), 0.0)
    for choice in product(range(4), repeat=len(nodes)):
        chance = np.prod([node[category] for node, category in zip(nodes, choice, strict=True)])
        stages[patient_stage([CATEGORIES[category] for category in choice])] += chance
    return stages


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6])
@pytest.mark.parametrize("seed", range(3))
def test_the_distribution_is_that_of_all_combinations(count, seed):
    nodes = np.random.default_rng(seed).dirichlet([2, 0.5, 0.7, 0.9], count)
    assert stage_probabilities(nodes) == pytest.approx(enumerated(nodes), abs=1e-12)


def test_many_nodes_leave_the_table():
    nodes = np.tile([0.5, 0, 0, 0.5], (12, 1))  # a fair coin each: macro or negative
    found = stage_probabilities(nodes)
    assert list(found) == [*STAGES, OUTSIDE]
    assert found["pN0"] == 1 / 4096
    assert found["pN1"] == pytest.approx((12 + 66 + 220) / 4096)
    assert found[OUTSIDE] == pytest.approx((66 + 12 + 1) / 4096)
    assert sum(found.values()) == pytest.approx(1)


def test_a_hundred_micro_metastases_are_certain_of_their_stage():
    assert stage_probabilities(np.tile([0.0, 0, 1, 0], (100, 1)))["pN1mi"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_certain_nodes_give_the_stage_itself(seed):
    chosen = np.random.default_rng(seed).integers(0, 4, 14)
    found = stage_probabilities(np.eye(4)[chosen])
    assert {stage for stage, chance in found.items() if chance} == {patient_stage([CATEGORIES[at] for at in chosen])}


@pytest.mark.parametrize(
    "nodes",
    [np.zeros((0, 4)), np.ones(4) / 4, np.ones((2, 5)) / 5, np.ones((2, 4)), [[1.5, -0.5, 0, 0]], [[np.nan] * 4]],
)
def test_what_is_no_distribution_is_refused(nodes):
    with pytest.raises(BadInput):
        stage_probabilities(nodes)
