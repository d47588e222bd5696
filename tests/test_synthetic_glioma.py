"""Generated glioma: known regions of three grades that differ in structure and not in colour."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import shapely
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from digipath.annotation import read_outlines
from digipath.errors import BadInput
from digipath.slide import open_slide
from digipath.synthetic.glioma import GRADES, grade_tile, write_glioma_slide
from digipath.synthetic.glioma_textures import grade_textures
from digipath.synthetic.matching import matched, ranks
from digipath.synthetic.textures import halved

MIXED = {"grade 2": 0.2, "grade 3": 0.3, "grade 4": 0.5}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    path = tmp_path_factory.mktemp("glioma") / "mixed.tiff"
    return write_glioma_slide(path, (1600, 1200), grades=MIXED, tile=256, seed=1, lossless=True)


@pytest.fixture(scope="module")
def textures():
    """Of three slides, each [grade 2, grade 3, grade 4, glass], 512 × 512."""
    return [grade_textures(512, 0.5, np.random.default_rng(seed)) for seed in range(3)]


def pixels_of(path):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., :3]


def areas(slide):
    return {grade: sum(shapely.Polygon(p).area for p in polygons) for grade, polygons in slide.regions.items()}


def test_opens_with_the_resolution_given(tmp_path):
    made = write_glioma_slide(tmp_path / "s.tiff", (1300, 900), grades={"grade 2": 1}, mpp=0.25, tile=256)
    with open_slide(made.path) as slide:
        assert slide.size_l0 == (1300, 900)
        assert slide.mpp == pytest.approx(0.25, rel=1e-4)


def test_regions_have_the_shares_asked_for_and_are_the_tissue(mixed):
    whole = sum(shapely.Polygon(tissue).area for tissue in mixed.tissues)
    assert mixed.dominant == "grade 4"
    assert tuple(mixed.regions) == GRADES
    assert areas(mixed) == pytest.approx({grade: share * whole for grade, share in MIXED.items()}, rel=1e-6)
    parts = [shapely.Polygon(polygon) for polygons in mixed.regions.values() for polygon in polygons]
    assert shapely.union_all(parts).area == pytest.approx(whole, rel=1e-9)  # no overlap: the sum is the union
    assert 0.5 < whole / (1600 * 1200) < 0.75


def test_grade_mask_follows_the_regions(mixed):
    mask = mixed.grade_mask()
    assert mask.shape == (1200, 1600)
    assert mask.dtype == np.int8
    assert set(np.unique(mask)) == {-1, 0, 1, 2}
    np.testing.assert_array_equal(mask >= 0, mixed.tissue_mask())
    shares = [np.mean(mask[mask >= 0] == index) for index in range(3)]
    assert shares == pytest.approx([0.2, 0.3, 0.5], abs=1e-3)
    assert mixed.grade_mask(8.0).shape == (150, 200)


def test_pixels_of_a_region_are_those_of_its_texture(mixed):
    pixels, mask = pixels_of(mixed.path), mixed.grade_mask()
    textures = grade_textures(768, 0.5, np.random.default_rng([1, 0]))
    for index in (-1, 0, 1, 2):
        expected = np.clip(np.rint(np.tile(textures[index], (2, 3, 1))[:1200, :1600]), 0, 255)
        np.testing.assert_array_equal(pixels[mask == index], expected[mask == index])


def test_outlines_are_read_back_with_their_grades(mixed, tmp_path):
    mixed.write_outlines(tmp_path / "regions.geojson")
    found = read_outlines(tmp_path / "regions.geojson")
    assert {outline.label for outline in found} == set(GRADES)
    for grade, area in areas(mixed).items():
        assert sum(o.area.area for o in found if o.label == grade) == pytest.approx(area, rel=1e-9)


def test_most_tiles_of_a_large_slide_lie_in_one_region(tmp_path):
    made = write_glioma_slide(tmp_path / "s.tiff", (8192, 6144), grades=MIXED, levels=1, seed=2)
    mask = made.grade_mask(32.0).reshape(6, 32, 8, 32).swapaxes(1, 2).reshape(48, -1)
    tissue = mask[(mask >= 0).mean(axis=1) >= 0.9]
    purest = np.array([[np.mean(tile == grade) for grade in range(3)] for tile in tissue])
    assert len(tissue) >= 20
    assert np.mean(purest.max(axis=1) >= 0.8) >= 0.6
    assert set(purest.argmax(axis=1)) == {0, 1, 2}


def test_pieces_hold_all_grades(tmp_path):
    made = write_glioma_slide(tmp_path / "s.tiff", (900, 1600), grades={"grade 3": 2, "grade 2": 1}, pieces=2, tile=256)
    assert made.dominant == "grade 3"
    assert len(made.tissues) == 2
    assert [len(polygons) >= 2 for polygons in made.regions.values()] == [True, True]
    assert "grade 4" not in made.regions


def test_two_halves_are_of_the_higher_grade(tmp_path):
    made = write_glioma_slide(tmp_path / "s.tiff", (600, 400), grades={"grade 3": 1, "grade 4": 1}, tile=256)
    assert made.dominant == "grade 4"


def test_same_arguments_same_bytes(tmp_path):
    contents = set()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        made = write_glioma_slide(tmp_path / name, (600, 500), grades=MIXED, tile=256, seed=seed)
        contents.add(made.path.read_bytes())
    assert len(contents) == 2


@pytest.mark.parametrize(
    "grades",
    [{}, {"grade 1": 1}, {"grade 2": 0}, {"grade 2": 1, "grade 3": -1}, {"grade 2": 1, "grade 3": 1, "grade 4": 1}],
)
def test_grades_without_one_of_at_least_half_are_refused(tmp_path, grades):
    with pytest.raises(BadInput, match="one of them at least half"):
        write_glioma_slide(tmp_path / "s.tiff", (600, 500), grades=grades)
    assert not (tmp_path / "s.tiff").exists()


def test_impossible_slides_are_refused(tmp_path):
    with pytest.raises(BadInput, match="expected a size"):
        write_glioma_slide(tmp_path / "s.tiff", (0, 5), grades=MIXED)


def test_a_tile_alone():
    tile = grade_tile("grade 4", 200, seed=5)
    assert tile.shape == (200, 200, 3)
    assert tile.dtype == np.uint8
    np.testing.assert_array_equal(tile, grade_tile("grade 4", 200, seed=5))
    assert not np.array_equal(tile, grade_tile("grade 3", 200, seed=5))
    with pytest.raises(BadInput, match="grade 5"):
        grade_tile("grade 5", 200)


def test_grades_have_one_colour_at_every_scale(textures):
    for of_slide in textures:
        tissue = of_slide[:3]
        for _ in range(4):  # 0.5 to 4 µm per pixel
            means, spreads = (np.array([f(image, axis=(0, 1)) for image in tissue]) for f in (np.mean, np.std))
            assert np.ptp(means, axis=0).max() < 0.3  # of 255
            assert np.ptp(spreads, axis=0).max() < 0.1 * spreads.mean()
            tissue = [halved(image) for image in tissue]


def test_stain_differs_between_slides(textures):
    means = np.array([of_slide[0].mean(axis=(0, 1)) for of_slide in textures])
    assert np.ptp(means, axis=0).min() > 5


def borders(texture):
    """Borders of dark areas per dark pixel: the more, the smaller and the more ragged they are."""
    red = texture[..., 0]
    dark = red < np.quantile(red, 0.12)
    return (dark[:, 1:] != dark[:, :-1]).sum() / dark.sum()


def test_dark_areas_grow_with_the_grade(textures):
    for grade_2, grade_3, grade_4, _ in textures:
        assert borders(grade_2) > 1.15 * borders(grade_3)
        assert borders(grade_2) > 1.15 * borders(grade_4)


def test_ranks_of_a_field():
    field = np.array([[3.0, 0.0], [1.0, 2.0]], np.float32)
    np.testing.assert_allclose(ranks(field), [[0.875, 0.125], [0.375, 0.625]])


def test_matching_makes_a_fine_and_a_blotchy_image_alike_at_every_scale():
    rng = np.random.default_rng(0)
    fine = rng.normal(size=(64, 64)).astype(np.float32)
    blotchy = fine / 2 + np.kron(rng.normal(size=(16, 16)), np.ones((4, 4))).astype(np.float32)

    def spreads(images):
        """Standard deviation of the second over the first, of means over 1, 2 and 4 pixels."""
        means = [[image.reshape(64 // k, k, 64 // k, k).mean(axis=(1, 3)) for image in images] for k in (1, 2, 4)]
        return [second.std() / first.std() for first, second in means]

    assert spreads([fine, blotchy])[2] > 3
    assert spreads(matched([fine, blotchy], 2)) == pytest.approx([1, 1, 1], abs=0.1)


def colours(image):
    """Histograms of 8 bins per channel together, mean and standard deviation."""
    flat = np.clip(image, 0, 255).reshape(-1, 3)
    joint = np.bincount((flat // 32).astype(int) @ np.array([64, 8, 1]), minlength=512) / len(flat)
    return np.concatenate([joint, flat.mean(axis=0), flat.std(axis=0)])


@pytest.mark.slow
def test_colour_does_not_tell_the_grade():
    """The issue's bar: on unseen slides a forest on colours stays at or below a macro AUROC of 0.65."""
    sets = {True: ([], []), False: ([], [])}
    for seed in range(36):
        for grade, texture in enumerate(grade_textures(512, 0.5, np.random.default_rng(seed))[:3]):
            for image in (texture, halved(texture)):
                features, labels = sets[seed < 18]
                features.append(colours(image))
                labels.append(grade)
    forest = RandomForestClassifier(100, random_state=0).fit(*sets[True])
    assert roc_auc_score(sets[False][1], forest.predict_proba(sets[False][0]), multi_class="ovr") <= 0.65


def test_quality_is_that_of_the_jpeg_and_leaves_regions_as_they_are(tmp_path):
    fine, coarse = (
        write_glioma_slide(tmp_path / f"{quality}.tiff", (1600, 1200), grades=MIXED, tile=256, seed=1, quality=quality)
        for quality in (96, 70)
    )
    assert coarse.path.stat().st_size < 0.5 * fine.path.stat().st_size
    difference = np.abs(pixels_of(fine.path).astype(int) - pixels_of(coarse.path))
    assert 0 < difference.mean() < 8  # of 255: coarser, the same tissue
    np.testing.assert_array_equal(fine.grade_mask(8), coarse.grade_mask(8))
