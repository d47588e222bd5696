"""Adaptive views: all views where the first are undecided, exactly; what that saves and changes is counted."""

from __future__ import annotations

import contextlib
import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import digipath
from digipath.cli import main
from digipath.engine.adaptive import AdaptiveViews, chosen_views
from digipath.engine.predict import predict_maps
from digipath.engine.stitch import patch_weights, smooth_window
from digipath.engine.views import DIHEDRAL
from digipath.errors import BadInput, Cancelled
from digipath.values import PREDICTED, ArrayMaps, Patch, ViewTally

sys.path.insert(0, str(Path(__file__).parent))
import fakes
from engine_cases import constant, everywhere, identity, random_case, run

RULE = AdaptiveViews()
NEVER = replace(RULE, share=1.0, audit=0.0)
ALWAYS = replace(RULE, share=-1.0)
AUDITED = replace(RULE, share=1.0, audit=1.0)


def lopsided(patches):
    """Sees another thing in each view: the patch, weighed by where in the patch it is seen."""
    slope = np.linspace(0, 1, patches.shape[-3] * patches.shape[-2], dtype=np.float32)
    return identity(patches) * slope.reshape(patches.shape[-3], patches.shape[-2], 1)


def same_bytes(some, others):
    assert set(some) == set(others)
    for name, values in others.items():
        assert some[name].tobytes() == values.tobytes(), name


@pytest.mark.parametrize("seed", range(12))
def test_the_two_ends_of_the_rule(seed):
    """Where all patches are undecided or audited the run is the full one, where none is that of the first views."""
    array, grid = random_case(seed, rank=2 if seed % 4 else 3)
    networks = [lopsided, lambda p: 1 - identity(p)]
    options = {"classes": (0, 1, 2), "extra": ("entropy", "mutual_information"), "members": ("a", "b")}
    full = run(array, grid, networks, views=DIHEDRAL, **options)
    always = run(array, grid, networks, views=ALWAYS, **options)
    audited = run(array, grid, networks, views=AUDITED, **options)
    never = run(array, grid, networks, views=NEVER, **options)
    same_bytes(always.arrays, full.arrays)
    same_bytes(audited.arrays, full.arrays)
    same_bytes(never.arrays, run(array, grid, networks, views=DIHEDRAL[:2], **options).arrays)
    n = len(grid)
    assert always.tally == ViewTally(n, n, 0, 16 * n)
    assert (audited.tally.full, audited.tally.audited, audited.tally.passes) == (0, n, 16 * n)
    assert never.tally == ViewTally(n, 0, 0, 4 * n)
    assert full.tally == ViewTally()


def test_each_patch_is_all_views_or_the_first_ones():
    """Patches side by side, dark ones and grey ones: the grey ones are near 0.5 and so undecided."""
    grid = everywhere((48, 160), (16, 16), overlap=0, reduce=2)
    grey = np.random.default_rng(3).random((3, 10)) < 0.4
    array = np.where(np.kron(grey, np.ones((16, 16))), 128, 30).astype(np.uint8)[..., None].repeat(3, axis=-1)
    array += np.random.default_rng(4).integers(0, 20, array.shape, np.uint8)

    def network(patches):
        """The pixels, a little brighter where the patch is seen at its top."""
        top = np.linspace(0.02, 0, patches.shape[-3], dtype=np.float32)[:, None, None]
        return identity(patches)[..., :1] + top

    rule = replace(RULE, audit=0.3)
    found = run(array, grid, [network, network], views=rule)
    full = run(array, grid, [network, network], views=DIHEDRAL).arrays["probability"]
    first = run(array, grid, [network, network], views=DIHEDRAL[:2]).arrays["probability"]
    starts = [tuple(int(n) for n in start) for start in grid.starts_px]
    audits = np.array([rule.audits(start) for start in starts]).reshape(3, 10) & ~grey
    assert 0 < audits.sum() < (~grey).sum()
    whole = np.kron(grey | audits, np.ones((8, 8), bool))[..., None]
    np.testing.assert_array_equal(found.arrays["probability"], np.where(whole, full, first))
    change = np.abs(full - first)[np.kron(audits, np.ones((8, 8), bool))].astype(np.float64)
    tally = found.tally
    assert (tally.patches, tally.full, tally.audited) == (30, grey.sum(), audits.sum())
    assert tally.passes == 2 * (2 * 30 + 6 * (grey | audits).sum())
    assert tally.compared == change.size == 64 * audits.sum()
    assert change.max() > 0.001
    assert tally.deviation == pytest.approx(change.sum(), rel=1e-4)
    assert tally.largest == pytest.approx(change.max(), rel=1e-4)


def answers(*views):
    """(first views, 10, 10, C) of the same value in each view."""
    return np.array([np.broadcast_to(view, (10, 10, np.size(view))) for view in views], np.float32)


@pytest.mark.parametrize(
    ("views", "undecided"),
    [
        ((0.1, 0.1), False), ((0.95, 0.9), False), ((0.41, 0.41), True), ((0.55, 0.63), True), ((0.39, 0.39), False),
        ((0.0, 0.21), True), ((0.0, 0.19), False), ((0.7, 0.95), True),
        (([0.8, 0.1, 0.1], [0.8, 0.1, 0.1]), False), (([0.4, 0.25, 0.35], [0.4, 0.25, 0.35]), True),
        (([0.6, 0.3, 0.1], [0.6, 0.1, 0.3]), True), (([0.05, 0.45, 0.5], [0.05, 0.45, 0.5]), True),
    ],
)  # fmt: skip
def test_what_is_undecided(views, undecided):
    assert RULE.undecided(answers(*views), np.ones((10, 10), np.float32)) is undecided


def test_a_tenth_of_what_is_wanted_may_be_undecided():
    views, weights = answers(0.1, 0.1), np.ones((10, 10), np.float32)
    views[:, 0] = 0.5
    assert not RULE.undecided(views, weights)
    views[:, 1, 0] = 0.5
    assert RULE.undecided(views, weights)
    weights[:2] = 0  # what is not wanted does not count
    assert not RULE.undecided(views, weights)
    views[:, 2] = 0.5  # 10 of the 80 that are left
    assert RULE.undecided(views, weights)
    assert not RULE.undecided(views, np.zeros((10, 10), np.float32))


def test_the_border_of_a_patch_counts_as_little_as_it_weighs():
    """A frame two pixels wide is 36 % of the patch, but a few % of its weight."""
    frame = np.ones((20, 20), bool)
    frame[2:-2, 2:-2] = False
    views = np.full((2, 20, 20, 1), 0.1, np.float32)
    views[:, frame] = 0.5
    assert frame.mean() == pytest.approx(0.36)
    assert not RULE.undecided(views, patch_weights((20, 20), smooth_window))
    assert RULE.undecided(views, np.ones((20, 20), np.float32))


def test_what_lies_off_tissue_does_not_matter():
    """The network knows nothing of the glass; only the patches that hold no decided tissue are seen by all views."""
    array = np.full((64, 128, 3), 128, np.uint8)
    array[:32, :32] = 10
    wanted = np.zeros((64, 128), np.uint8)
    wanted[:32, :64] = PREDICTED
    grid = everywhere((64, 128), (32, 32), overlap=0)
    found = run(array, grid, [lambda p: identity(p)[..., :1]], wanted=wanted, views=replace(RULE, audit=0.0))
    assert (found.tally.patches, found.tally.full) == (8, 1)


def test_the_audit_is_a_sample_of_the_stated_size_at_fixed_places():
    places = [(row, column) for row in range(0, 25600, 256) for column in range(0, 25600, 256)]
    chosen = [RULE.audits(place) for place in places]
    assert np.mean(chosen) == pytest.approx(1 / 16, abs=0.01)  # 4 standard deviations
    by_row = np.reshape(chosen, (100, 100)).mean(axis=1)
    assert by_row.max() < 0.25  # spread over the slide
    assert chosen == [RULE.audits(np.array(place)) for place in places]
    assert not RULE.audits((0, 0))  # the only patch of a small image


@pytest.mark.parametrize("batch", [1, 3])
def test_a_resumed_run_has_the_same_bytes_and_the_same_tally(batch):
    rng = np.random.default_rng(11)
    array = (rng.integers(0, 256, (6, 7)).repeat(20, 0).repeat(20, 1)[..., None] * np.ones(3)).astype(np.uint8)
    grid = everywhere(array.shape[:2], (24, 24), overlap=0.5, reduce=3)

    def network(patches):
        return lopsided(patches)[..., :1]

    network.batch = batch
    rule, reports = replace(RULE, audit=0.4), []
    whole = run(array, grid, [network], views=rule, progress=reports.append)
    assert 0 < whole.tally.full < whole.tally.patches == len(grid)
    assert whole.tally.audited > 3
    for stop in range(1, len(reports), 3):
        into = ArrayMaps(grid.map_shape)
        for calls in ([], []):  # stopped twice, if there is enough left
            with contextlib.suppress(Cancelled):
                run(array, grid, [network], into=into, views=rule,
                    cancel=lambda calls=calls, stop=stop: calls.append(1) or len(calls) >= stop)
        run(array, grid, [network], into=into, views=rule)
        assert into.tally == whole.tally, stop
        same_bytes(into.arrays, whole.arrays)


def test_unreadable_pixels_are_left_out_of_rule_and_audit():
    """Half of each patch cannot be read and is filled with grey: it neither makes a patch undecided nor is compared."""
    grid = everywhere((32, 64), (16, 16), overlap=0)
    real = np.zeros((16, 16), bool)
    real[:, :8] = True

    def read(start_px):
        return Patch(start_px, np.where(real, 20, 128).astype(np.uint8)[..., None], real)

    tally = run(None, grid, [identity], read=read, views=replace(RULE, audit=1.0)).tally
    assert (tally.patches, tally.full, tally.audited, tally.compared) == (8, 0, 8, 8 * 128)
    assert tally.largest == 0


def test_memory_holds_the_rows_in_flight_only():
    def peak(rows):
        grid = everywhere((rows, 256), (64, 64), overlap=0.5)

        class Nowhere(ArrayMaps):
            def write(self, row, values):
                pass

        def read(start_px):
            return Patch(start_px, np.full((64, 64, 1), sum(start_px) // 32 * 25 % 256, np.uint8))

        wanted = np.ones((1, 1), np.uint8)
        tracemalloc.start()
        predict_maps(read, grid, [identity, identity], wanted, Nowhere(grid.map_shape), views=RULE,
                     extra=("entropy", "mutual_information"), members=("a", "b"))  # fmt: skip
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(128)  # imports and caches
    assert peak(4096) < 1.3 * peak(512)


def test_record_adds_up():
    tally = ViewTally(100, full=20, audited=5, passes=3 * (200 + 6 * 25), compared=400, deviation=8.0, largest=0.3)
    record = RULE.record(tally, networks=3)
    assert record.pop("rule") == (
        "all 8 views where, of more than 10% of a patch, the first 2 differ by 0.2 or more or their mean is within 0.1 "
        "of 0.5; 6.2% of the others are audited"
    )
    assert record == {
        "patches": 100, "full": 20, "audited": 5, "passes": 1050, "passes_full": 2400, "saving": 0.5625,
        "mean_absolute_deviation": 0.02, "largest_deviation": 0.3,
    }  # fmt: skip
    nothing = RULE.record(ViewTally(), networks=3)
    assert (nothing["saving"], nothing["mean_absolute_deviation"], nothing["largest_deviation"]) == (0, None, None)


def test_which_views_may_be_asked_for():
    assert [len(chosen_views(views)) for views in (1, 2, 4, 8, "adaptive")] == [1, 2, 4, 8, 8]
    for views in (3, "most", "8"):
        with pytest.raises(BadInput, match="views must be 1, 2, 4, 8 or 'adaptive', got"):
            chosen_views(views)


def unsure(patches):
    """Redness, more contrasted, and brighter at the top of what it sees."""
    top = np.linspace(0.1, 0, patches.shape[-3], dtype=np.float32)[:, None, None]
    return np.clip(fakes.redness(patches) * 4 - 2.6, 0, 0.9) + top


unsure.patch, unsure.classes = 256, fakes.redness.classes


def test_segment_goes_on_with_the_same_maps_and_record(small_slide, tmp_path):
    def segment(out, **options):
        return digipath.segment(
            small_slide.path, predictors=[unsure], views="adaptive", tissue="all", overlap=0.6, out=out, **options
        )

    def files(result):
        found = sorted((result.folder / "maps.zarr").rglob("*"))
        return {str(path.relative_to(result.folder)): path.read_bytes() for path in found if path.is_file()}

    whole = segment(tmp_path / "whole")
    record = whole.run["adaptive"]
    assert record["patches"] == whole.run["patches"]
    assert 0 < record["full"] < record["patches"] - record["audited"]
    assert record["passes"] == 2 * record["patches"] + 6 * (record["full"] + record["audited"])
    assert record["passes_full"] == 8 * record["patches"]
    assert record["saving"] == round(1 - record["passes"] / record["passes_full"], 4)
    assert 0 < record["mean_absolute_deviation"] <= record["largest_deviation"]
    for stop in (10, 60):
        calls = []
        with pytest.raises(Cancelled):
            segment(
                tmp_path / f"part {stop}", cancel=lambda calls=calls, stop=stop: calls.append(1) or len(calls) > stop
            )
        part = segment(tmp_path / f"part {stop}")
        assert part.run["adaptive"] == record
        assert files(part) == files(whole)


def test_only_adaptive_runs_have_the_record(small_slide, tmp_path):
    result = digipath.segment(small_slide.path, predictors=[constant(0.9)], views=2, out=tmp_path / "case")
    assert "adaptive" not in result.run


def test_the_command_says_what_was_saved(small_slide, tmp_path, monkeypatch, capfd):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    out = tmp_path / "case"
    words = ["segment", str(small_slide.path), "--out", str(out), "--predictor", "fakes:redness", "--views", "adaptive"]
    assert main([*words, "--tissue", "all", "--extra-maps", "entropy", "--keep-members"]) == 0
    record = json.loads((out / "run.json").read_text())
    told = f"{record['adaptive']['full']} of {record['adaptive']['patches']} patches by all views"
    assert told in capfd.readouterr().out
    assert record["settings"]["views"] == "adaptive"
    assert {"entropy", "members/network-1"} <= set(digipath.open_result(out).maps)


@pytest.mark.parametrize("words", [("--views", "most"), ("--views", "3"), ("--extra-maps", "variance")])
def test_the_command_refuses_what_it_does_not_know(small_slide, tmp_path, capfd, words):
    try:
        code = main(["segment", str(small_slide.path), "--out", str(tmp_path / "case"), *words])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    assert words[1] in capfd.readouterr().err
    assert not (tmp_path / "case").exists()
