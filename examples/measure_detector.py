"""Measure how a real detector of metastases errs, for the simulated heatmaps that pN forests are trained on.

    python examples/train_lymphnode_ensemble.py --data ../shared/data --out lymphnode --seeds 0
    python examples/measure_detector.py --data ../shared/data --training lymphnode/seed0 --out detector_errors.json
    python examples/measure_detector.py --data ../shared/data --crops detector_errors.json --out again.json

Two sources:

- the cross-validated networks of the default weights on real crops (camelyon_tumour, camelyon16_patches), each crop
  seen by the three networks that were trained without it, probabilities as `segment()` gives them: border blur,
  texture, which regions of which size are missed, and a confidence, which is kept beside the next one;
- published heatmap features of two CAMELYON16 entries (camelyon16_features): false regions per mm² of normal tissue and
  how large they are, how many slides with tumour show nothing at all, and confidence, by how much the largest region
  shrinks from p = 0.5 to 0.9 on slides whose outlines are known. It is higher than that of our small networks on
  crops. Confidence and the size and height of false regions are those of the same entry. Its slides were its training
  data, as far as we know, so all of it may flatter.

The slides of the tables are also those whose outlines `train_pn_forest.py` parts to train and test: 2 parameters of
confidence and the tissue's mean area come from all of them.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from PIL import Image
from scipy import ndimage, optimize

from digipath import networks
from digipath.files import read_json, write_json
from digipath.synthetic.detector import (
    CLUSTER_UM,
    CONFIDENT_LOGIT,
    NEAR_UM,
    DetectorErrors,
    clusters,
    false_region,
    simulate_heatmap,
)
from digipath.training.simulated_nodes import Polygons, read_outlines_json

MAP_MPP, CROP_MPP, NORMAL_MPP, SLIDE_MPP = 8.0, 0.5, 0.25, 0.243  # µm per pixel
BLOCK = round(MAP_MPP / CROP_MPP)
FEATURES_MPP = 16 * SLIDE_MPP  # of the didsr heatmaps: level 4, which their lesions' areas confirm
KINDS = ("unet", "deeplab", "deep-unet")
MOST = 1e-4  # probabilities nearer to 0 or 1 say nothing more
WELL_INSIDE_UM = 24.0
QUANTILES = (50, 75, 90)  # of the largest false regions; below, slides without any decide, which the counts tell
SHRINKING = (10, 25, 50, 75, 90)  # quantiles over slides of how much of the largest region is left
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="default: ../shared/data")
    crops = parser.add_mutually_exclusive_group(required=True)
    crops.add_argument("--training", type=Path, help="a seed's folder of train_lymphnode_ensemble.py")
    crops.add_argument("--crops", type=Path, help="what an earlier run measured on crops: its file")
    parser.add_argument("--out", type=Path, default=Path("detector_errors.json"))
    arguments = parser.parse_args()
    on_crops = measure_crops(arguments.training) if arguments.training else read_json(arguments.crops)["crops"]
    found: dict[str, float] = {name: value for name, value in on_crops.items() if name != "data"}
    tables = Tables(arguments.data)
    found |= {"miss_floor": tables.share_without_a_region}
    found |= false_regions(tables, found)
    found |= confidence(tables, found)
    record = {
        "errors": {name: round(value, 4) for name, value in found.items()},
        "crops": on_crops,
        "data": f"{on_crops['data']}; {tables.normals} normal and {tables.tumours} tumour slides of heatmap_train.csv, "
        f"{len(tables.largest_um2)} normal and {len(tables.shrinking)} outlined tumour slides of didsr_method_I, "
        f"{len(tables.tissue_mm2)} outlined normal slides",
    }
    write_json(arguments.out, record)
    print(json.dumps(record, indent=2))
    DetectorErrors.measured(arguments.out)  # it must read back


def measure_crops(training: Path) -> dict[str, Any]:
    """All that is measured on crops, by the names of `DetectorErrors`, and what the `data` were."""
    crops, truths, normals = predict(training)
    depths = [depth_um(truth) for truth in truths]
    found = {"map_mpp": MAP_MPP, **profile(crops, depths), "normal_logit": float(logit(normals).mean())}
    found |= spread(crops, depths, found) | misses(crops, truths)
    data = f"{len(crops)} crops of camelyon_tumour and {len(normals)} normal patches, out of fold"
    return {name: round(value, 4) for name, value in found.items()} | {"data": data}


def predict(training: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Out-of-fold probabilities of crops (n, 32, 32), which map pixels are tumour, and normal patches (m, 8, 8)."""
    crops, truths, normals = [], [], []
    cases = list(csv.DictReader((training.parent / "cases.csv").open(encoding="utf-8")))
    for fold in sorted({case["fold"] for case in cases}):
        cards = [str(training / "weights" / f"lymphnode-ensemble-v1-{kind}-fold{fold}.json") for kind in KINDS]
        predictors = [networks.published(card).load()[0] for card in cards]
        for case in cases:
            if case["fold"] != fold:
                continue
            pixels = crop_px(Path(case["slide"]), float(case["mpp"]))
            probability = np.mean([predictor(pixels[None])[0, ..., -1] for predictor in predictors], axis=0)
            means = blocks(probability)
            if case["annotation"]:
                mask = np.asarray(Image.open(case["annotation"]).convert("L")) > 127
                crops.append(means)
                truths.append(blocks(mask) >= 0.5)
            else:
                side = round(256 * NORMAL_MPP / MAP_MPP)
                normals.append(means[:side, :side])
    return np.array(crops), np.array(truths), np.array(normals)


def crop_px(path: Path, mpp: float) -> np.ndarray:
    """(512, 512, 3) uint8 at 0.5 µm/px; a smaller patch is repeated, so that the networks see tissue all around."""
    image = Image.open(path).convert("RGB")
    side = round(image.width * mpp / CROP_MPP)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BOX) if side != image.width else image)
    return np.tile(pixels, (512 // side, 512 // side, 1))


def blocks(values: np.ndarray) -> np.ndarray:
    """Means over map pixels."""
    side = len(values) // BLOCK
    return values.reshape(side, BLOCK, side, BLOCK).mean(axis=(1, 3))


def logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(probability, MOST, 1 - MOST)
    return np.log(p) - np.log1p(-p)


def depth_um(mask: np.ndarray) -> np.ndarray:
    """Distance from the border within the crop, positive inside; NaN where a crop has no border."""
    if mask.all() or not mask.any():
        return np.full(mask.shape, np.nan)
    inside, outside = ndimage.distance_transform_edt(mask), ndimage.distance_transform_edt(~mask)
    return np.where(mask, inside - 0.5, 0.5 - outside) * MAP_MPP


def profile(crops: np.ndarray, depths: list[np.ndarray]) -> dict[str, float]:
    """Mean log odds by depth as a logistic step, by least squares."""
    depth = np.array(depths)
    known = ~np.isnan(depth)

    def step(d: np.ndarray, inside: float, outside: float, width: float, shift: float) -> np.ndarray:
        return outside + (inside - outside) / (1 + np.exp(-(d - shift) / width))

    (inside, outside, width, shift), _ = optimize.curve_fit(step, depth[known], logit(crops)[known], (2, -2, 10, 0))
    return {"inside_logit": inside, "outside_logit": outside, "border_um": width, "border_shift_um": shift}


def spread(crops: np.ndarray, depths: list[np.ndarray], found: dict[str, float]) -> dict[str, float]:
    """How log odds well inside differ between crops and within one, and over what distance they are alike."""
    means, residuals, pairs = [], [], []
    for crop, depth in zip(crops, depths, strict=True):
        deep = depth > WELL_INSIDE_UM
        if np.count_nonzero(deep) < 20:
            continue
        values = logit(crop)
        means.append(values[deep].mean())
        centred = np.where(deep, values - means[-1], np.nan)
        residuals.append(centred[deep])
        pairs.append([_sum_and_count(centred[:, lag:] * centred[:, : crop.shape[1] - lag]) for lag in range(8)])
    within = np.concatenate(residuals).std()
    total, count = np.sum(pairs, axis=0).T
    correlation = (total / count) / (total[0] / count[0])
    lags = np.arange(8) * MAP_MPP
    # White noise under a Gaussian filter of σ has the correlation exp(−r² / 4σ²).
    (sigma,), _ = optimize.curve_fit(lambda r, s: np.exp(-((r / s) ** 2) / 4), lags, correlation, (15,))
    return {"between_sd": float(np.std(means)), "within_sd": float(within), "texture_um": abs(float(sigma))}


def _sum_and_count(values: np.ndarray) -> tuple[float, int]:
    known = values[~np.isnan(values)]
    return float(known.sum()), known.size


def misses(crops: np.ndarray, truths: np.ndarray) -> dict[str, float]:
    """Which regions of the truth reach p = 0.5 nowhere, by their equivalent diameter: logistic, most likely."""
    diameters, missed = [], []
    for crop, truth in zip(crops, truths, strict=True):
        labels, count = ndimage.label(truth, np.ones((3, 3)))
        for region in range(1, count + 1):
            inside = labels == region
            diameters.append(2 * MAP_MPP * np.sqrt(np.count_nonzero(inside) / np.pi))
            missed.append(crop[inside].max() < 0.5)
    size, gone = np.log(diameters), np.array(missed)

    def unlikeliness(given: np.ndarray) -> float:
        odds = np.exp(given[1]) * (size - given[0])
        return float(np.logaddexp(0, np.where(gone, odds, -odds)).sum())

    best = optimize.minimize(unlikeliness, (np.log(30), 1.0), method="Nelder-Mead").x
    print(f"{len(size)} regions in crops, {np.count_nonzero(gone)} missed")
    return {"miss_diameter_um": float(np.exp(best[0])), "miss_slope": float(np.exp(best[1]))}


class Tables:
    """What the published tables and the outlines of the same data set's slides say.

    shrinking: (slides, 4) log share of the largest region that is left at the further `THRESHOLDS`, of slides
    with outlined tumour; lesions: their outlines in µm.
    """

    def __init__(self, data: Path) -> None:
        features = data / "camelyon16_features"
        rows = list(csv.DictReader((features / "heatmap_train.csv").open(encoding="utf-8")))
        counts = {side: [float(row["region_count"]) for row in rows if row["label"] == side] for side in "01"}
        self.normals, self.tumours = len(counts["0"]), len(counts["1"])
        self.share_without_a_region = counts["1"].count(0.0) / self.tumours
        self.counts = np.array(counts["0"])
        self.largest_um2 = self._areas_um2(features, "normal", (0.5, 0.9))[1]
        eccentricity = [float(row["eccentricity_largest"] or 0) for row in self._rows(features, "normal", 0.9)]
        self.aspect = float(1 / np.sqrt(1 - np.median(eccentricity) ** 2))
        path = data / "camelyon16_lesions" / "lesions.json.gz"
        self.lesions, self.shrinking = self._outlined(features, path)
        outlines = json.loads(gzip.decompress(path.read_bytes()))
        self.tissue_mm2 = [
            sum(shapely.Polygon(ring).area for ring in each["negative"]) * SLIDE_MPP**2 / 1e6
            for name, each in outlines.items()
            if name.startswith("Normal")
        ]

    @staticmethod
    def _rows(features: Path, side: str, threshold: float) -> list[dict[str, str]]:
        (path,) = (features / "didsr_method_I").glob(f"*_{side}_{threshold * 10:.0f}_*")
        return list(csv.DictReader(path.open(encoding="utf-8")))

    @classmethod
    def _areas_um2(cls, features: Path, side: str, thresholds: Sequence[float]) -> tuple[list[str], np.ndarray]:
        """Names of slides, and the area of each one's largest region (slides, thresholds)."""
        tables = [cls._rows(features, side, threshold) for threshold in thresholds]
        areas = [[float(row["largest_area"] or 0) for row in rows] for rows in tables]
        return [row["name"].partition(".")[0].lower() for row in tables[0]], np.transpose(areas) * FEATURES_MPP**2

    @classmethod
    def _outlined(cls, features: Path, path: Path) -> tuple[list[Polygons], np.ndarray]:
        drawn = {name.lower(): lesions for name, lesions in read_outlines_json(path, SLIDE_MPP).lesions.items()}
        names, areas_um2 = cls._areas_um2(features, "tumor", THRESHOLDS)
        known = [at for at, name in enumerate(names) if name in drawn and areas_um2[at, 0]]
        return [drawn[names[at]] for at in known], shrinking(areas_um2[known])


def false_regions(tables: Tables, found: dict[str, float]) -> dict[str, float]:
    """Rate and spread by moments; size and height so that simulated slides' largest regions match real ones'."""
    mean, variance = tables.counts.mean(), tables.counts.var()
    rate = {
        "false_per_mm2": mean / float(np.mean(tables.tissue_mm2)),
        "false_dispersion": mean**2 / (variance - mean),  # negative binomial: variance = mean + mean² / shape
        "false_aspect": tables.aspect,
    }
    wanted = np.log(np.percentile(tables.largest_um2, QUANTILES, axis=0) + MAP_MPP**2)

    def difference(given: np.ndarray) -> float:
        tried = _false_errors({**found, **rate}, given)
        got = np.log(np.percentile(_largest_um2(tried, tables), QUANTILES, axis=0) + MAP_MPP**2)
        return float(((got - wanted) ** 2).sum())

    grid = [(np.log(d), s, np.log(p)) for d in (20, 40, 60, 80) for s in (0.2, 0.5, 0.8) for p in (0.3, 0.8, 1.5, 2.5)]
    start = min(grid, key=lambda given: difference(np.array(given)))
    best = optimize.minimize(difference, start, method="Nelder-Mead", options={"maxfev": 60}).x
    fitted = _false_errors({**found, **rate}, best)
    got = np.percentile(_largest_um2(fitted, tables), QUANTILES, axis=0)
    print("largest false region, µm² at p 0.5 and 0.9; real:", np.exp(wanted).round(), "simulated:", got.round())
    names = ("false_diameter_um", "false_log_sd", "false_peak_logit")
    return rate | {name: getattr(fitted, name) for name in names}


def confidence(tables: Tables, found: dict[str, float]) -> dict[str, float]:
    """Log odds inside tumour and their spread, so that simulated lesions shrink as real ones do, by least squares.

    Each slide's largest lesion is simulated with those around it that share its confidence. On some slides the
    heatmap's largest region is another one; without them the detector would be more confident still.
    """
    lesions = [_largest_cluster(each) for each in tables.lesions]
    wanted = np.percentile(tables.shrinking, SHRINKING, axis=0)

    def got(given: np.ndarray) -> np.ndarray:
        values = {**found, "inside_logit": given[0], "between_sd": abs(given[1]), "miss_floor": 0.0}
        errors = DetectorErrors(**{**values, "false_per_mm2": 0.0})
        areas = [_seen_um2(*each, errors, seed) for seed, each in enumerate(lesions)]  # the same noise for all tried
        return np.percentile(shrinking(np.array(areas)), SHRINKING, axis=0)

    def difference(given: np.ndarray) -> float:
        return float(((got(given) - wanted) ** 2).sum())

    best = optimize.minimize(difference, (3.0, 1.0), method="Nelder-Mead", options={"maxfev": 60}).x
    print("share of the largest region left at", THRESHOLDS[1:], "by slide; real:\n", np.exp(wanted).round(2))
    print("simulated:\n", np.exp(got(best)).round(2))
    return {"inside_logit": float(best[0]), "between_sd": abs(float(best[1]))}


def shrinking(areas_um2: np.ndarray) -> np.ndarray:
    """Log share of the area at the first threshold that is left at the others (…, thresholds − 1)."""
    areas_um2 = areas_um2 + MAP_MPP**2  # of nothing at all there is no logarithm
    return np.log(areas_um2[..., 1:] / areas_um2[..., :1])


def _largest_cluster(lesions: Polygons) -> tuple[list[shapely.Polygon], tuple[int, int]]:
    """The cluster of the largest lesion in map pixels, and the shape of a map that holds it and its surroundings."""
    largest = int(np.argmax([lesion.area for lesion in lesions]))
    (members,) = (group for group in clusters(lesions, CLUSTER_UM) if largest in group)
    bounds = shapely.total_bounds([lesions[at] for at in members])
    columns, rows = np.ceil((bounds[2:] - bounds[:2] + 4 * NEAR_UM) / MAP_MPP).astype(int).tolist()
    corner = bounds[:2] - 2 * NEAR_UM
    return [shapely.transform(lesions[at], lambda xy: (xy - corner) / MAP_MPP) for at in members], (rows, columns)


def _seen_um2(lesions: list[shapely.Polygon], shape: tuple[int, int], errors: DetectorErrors, seed: int) -> list[float]:
    """Area of the largest region at each of the thresholds."""
    heatmap = simulate_heatmap(lesions, np.ones(shape, bool), errors, np.random.default_rng(seed))
    found = [ndimage.label(heatmap >= threshold, np.ones((3, 3)))[0] for threshold in THRESHOLDS]
    return [float(np.bincount(labels.ravel())[1:].max(initial=0)) * MAP_MPP**2 for labels in found]


def _false_errors(values: dict[str, float], given: np.ndarray) -> DetectorErrors:
    """Errors with a median diameter, a spread and a height above p = 0.9 (the first and last as logarithms)."""
    size = {
        "false_diameter_um": float(np.exp(given[0])),
        "false_log_sd": abs(float(given[1])),
        "false_peak_logit": CONFIDENT_LOGIT + float(np.exp(given[2])),
    }
    return DetectorErrors(**{**values, "miss_floor": 0.0, **size})


def _largest_um2(errors: DetectorErrors, tables: Tables, slides: int = 200) -> np.ndarray:
    """(slides, 2) area of the largest false region at p = 0.5 and 0.9 on simulated normal slides."""
    rng = np.random.default_rng(0)  # the same for all that is tried
    largest = np.zeros((slides, 2))
    for slide in range(slides):
        tissue_mm2 = tables.tissue_mm2[rng.integers(len(tables.tissue_mm2))]
        rate = errors.false_per_mm2 * tissue_mm2 * rng.gamma(errors.false_dispersion) / errors.false_dispersion
        for _ in range(rng.poisson(rate)):
            hill = false_region(errors, rng)
            for at, level in enumerate((0.0, CONFIDENT_LOGIT)):
                labels, _ = ndimage.label(hill >= level, np.ones((3, 3)))
                area = np.bincount(labels.ravel())[1:].max(initial=0) * errors.map_mpp**2
                largest[slide, at] = max(largest[slide, at], area)
    return largest


if __name__ == "__main__":
    main()
