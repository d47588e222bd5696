"""Generated slides: readable, true to their outlines, and no toy."""

from __future__ import annotations

import numpy as np
import openslide
import pytest
import tifffile
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from digipath.errors import BadInput
from digipath.synthetic import corrupt_tiles, write_slide


def pixels_of(path, level=0):
    with openslide.OpenSlide(path) as slide:
        return np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))[..., :3]


@pytest.mark.parametrize("lossless", [True, False])
def test_openslide_reads_what_the_writer_says(tmp_path, lossless):
    made = write_slide(tmp_path / "s.tiff", (1300, 900), mpp=0.25, tile=256, lossless=lossless)
    with openslide.OpenSlide(made.path) as slide:
        assert slide.dimensions == (1300, 900)
        assert slide.level_dimensions == ((1300, 900), (650, 450), (325, 225), (162, 112))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.25)
        assert slide.properties["openslide.level[0].tile-width"] == "256"
        for level in range(slide.level_count):
            slide.read_region((0, 0), level, slide.level_dimensions[level])


def test_another_reader_sees_the_same_pixels(tmp_path):
    path = write_slide(tmp_path / "s.tiff", (700, 600), tile=256, lossless=True).path
    np.testing.assert_array_equal(tifffile.imread(path, key=0), pixels_of(path))


def test_levels_are_means_of_the_level_above(tmp_path):
    path = write_slide(tmp_path / "s.tiff", (1024, 1024), tile=256, lossless=True).path
    means = pixels_of(path).reshape(512, 2, 512, 2, 3).mean(axis=(1, 3))
    difference = np.abs(pixels_of(path, level=1) - means)
    assert np.percentile(difference, 98) <= 1  # all but the outlines, which are drawn anew


def test_same_arguments_same_bytes(tmp_path):
    contents = set()
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        contents.add(write_slide(tmp_path / name, (600, 500), tile=256, seed=seed).path.read_bytes())
    assert len(contents) == 2


def test_outlines_are_where_the_tissue_is(tmp_path):
    made = write_slide(tmp_path / "s.tiff", (2000, 1500), tile=256, lossless=True)
    tissue, tumour = made.tissue_mask(), made.tumour_mask()
    assert tissue.shape == (1500, 2000)
    assert len(made.tumours) == 3
    assert 0.2 < tissue.mean() < 0.6
    assert 0.03 < tumour.sum() / tissue.sum() < 0.3
    assert not (tumour & ~tissue).any()
    grey = pixels_of(made.path).astype(float)
    assert grey[~tissue].min() > 225
    assert np.mean(grey[tissue][:, 1] < 225) > 0.95
    assert made.tumour_mask(8.0).shape == (188, 250)
    assert made.tumour_mask(8.0).mean() == pytest.approx(tumour.mean(), rel=0.1)


def test_tumour_has_larger_nuclei(tmp_path):
    made = write_slide(tmp_path / "s.tiff", (2000, 1500), tile=256, lossless=True)
    dark = pixels_of(made.path)[..., 0] < 120
    # The larger the nuclei, the fewer borders per dark pixel.
    borders = (dark[:, 1:] != dark[:, :-1])[:, :1999]
    tumour, dark = made.tumour_mask()[:, :1999], dark[:, :1999]
    normal = made.tissue_mask()[:, :1999] & ~tumour
    ratio = [borders[area].sum() / dark[area].sum() for area in (tumour, normal)]
    assert ratio[0] < 0.75 * ratio[1]


def test_large_slides_are_small_files(tmp_path):
    path = write_slide(tmp_path / "s.tiff", (8000, 8000), levels=1).path
    assert path.stat().st_size < 0.4 * 8000**2  # bytes per pixel


def histograms(made, side=256):
    """Colour histograms of tiles wholly in one tissue, and whether that is tumour."""
    pixels, tumour, tissue = pixels_of(made.path), made.tumour_mask(), made.tissue_mask()
    features, labels = [], []
    for row in range(0, pixels.shape[0] - side, side // 2):
        for col in range(0, pixels.shape[1] - side, side // 2):
            part = np.s_[row : row + side, col : col + side]
            share = tumour[part].mean()
            if tissue[part].all() and (share > 0.8 or share == 0):
                counts = [np.histogram(pixels[part][..., c], 32, (0, 256))[0] for c in range(3)]
                features.append(np.concatenate(counts))
                labels.append(share > 0)
    return features, labels


def test_colour_does_not_tell_tumour_from_normal(tmp_path):
    """The design's bar: a forest on colour histograms stays at or below an AUROC of 0.65."""
    slides = [write_slide(tmp_path / f"{seed}.tiff", (3000, 2000), pieces=1, seed=seed) for seed in range(6)]
    sets = [histograms(made) for made in slides]
    train = [np.concatenate([s[k] for s in sets[:4]]) for k in range(2)]
    test = [np.concatenate([s[k] for s in sets[4:]]) for k in range(2)]
    assert 10 < test[1].sum() < len(test[1]) - 10
    forest = RandomForestClassifier(100, random_state=0).fit(*train)
    assert roc_auc_score(test[1], forest.predict_proba(test[0])[:, 1]) <= 0.65


@pytest.mark.parametrize("lossless", [True, False])
def test_corrupted_tiles_and_only_they_raise(tmp_path, lossless):
    made = write_slide(tmp_path / "s.tiff", (1000, 700), tile=256, lossless=lossless, failed_tiles=[(2, 1)])
    assert made.failed_tiles == ((2, 1),)
    corrupt_tiles(made.path, [(0, 2)])
    broken = set()
    for row in range(3):
        for col in range(4):
            with openslide.OpenSlide(made.path) as slide:
                try:
                    slide.read_region((col * 256, row * 256), 0, (10, 10))
                except openslide.OpenSlideError:
                    broken.add((col, row))
                    with pytest.raises(openslide.OpenSlideError):  # latched: the good corner fails too
                        slide.read_region((0, 0), 0, (1, 1))
    assert broken == {(2, 1), (0, 2)}


@pytest.mark.parametrize(
    ("size", "options"),
    [((0, 5), {}), ((100_001, 5), {}), ((500, 500), {"tile": 300}), ((500, 500), {"mpp": 0})],
)
def test_impossible_slides_are_refused(tmp_path, size, options):
    with pytest.raises(BadInput, match="expected a size"):
        write_slide(tmp_path / "s.tiff", size, **options)
    assert not (tmp_path / "s.tiff").exists()


def test_a_tile_outside_the_level_is_refused(tmp_path):
    path = write_slide(tmp_path / "s.tiff", (500, 500), tile=256).path
    with pytest.raises(BadInput, match="within 2 × 2"):
        corrupt_tiles(path, [(2, 0)])
