"""Measure how a real detector of metastases errs, for the simulated heatmaps that pN forests are trained on.

    python examples/train_lymphnode_ensemble.py --data ../shared/data --out lymphnode --seeds 0
    python examples/measure_detector.py --data ../shared/data --training lymphnode/seed0 --out detector_errors.json

Two sources, neither of which the forests are tested on:

- the cross-validated networks of the default weights on real crops (camelyon_tumour, camelyon16_patches), each crop
  seen by the three networks that were trained without it, probabilities as `segment()` gives them: confidence, border
  blur, texture, and which regions of which size are missed;
- published heatmap features of two CAMELYON16 entries (camelyon16_features): false regions per mm² of normal tissue and
  how large they are, and how many slides with tumour show nothing at all.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
from pathlib import Path

import numpy as np
import shapely
from PIL import Image
from scipy import ndimage, optimize

from digipath import networks
from digipath.files import write_json
from digipath.synthetic.detector import CONFIDENT_LOGIT, DetectorErrors, false_region

MAP_MPP, CROP_MPP, NORMAL_MPP, SLIDE_MPP = 8.0, 0.5, 0.25, 0.243  # µm per pixel
BLOCK = round(MAP_MPP / CROP_MPP)
FEATURES_MPP = 16 * SLIDE_MPP  # of the didsr heatmaps: level 4, which their lesions' areas confirm
KINDS = ("unet", "deeplab", "deep-unet")
MOST = 1e-4  # probabilities nearer to 0 or 1 say nothing more
WELL_INSIDE_UM = 24.0
QUANTILES = (50, 75, 90)  # of the largest false regions; below, slides without any decide, which the counts tell


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="default: ../shared/data")
    parser.add_argument("--training", type=Path, required=True, help="a seed's folder of train_lymphnode_ensemble.py")
    parser.add_argument("--out", type=Path, default=Path("detector_errors.json"))
    arguments = parser.parse_args()
    crops, truths, normals = predict(arguments.training)
    depths = [depth_um(truth) for truth in truths]
    found = {"map_mpp": MAP_MPP, **profile(crops, depths), "normal_logit": float(logit(normals).mean())}
    found |= spread(crops, depths, found) | misses(crops, truths)
    tables = Tables(arguments.data)
    found |= {"miss_floor": tables.share_without_a_region} | false_regions(tables, found)
    record = {
        "errors": {name: round(value, 4) for name, value in found.items()},
        "data": f"{len(crops)} crops of camelyon_tumour and {len(normals)} normal patches, out of fold; "
        f"{tables.normals} normal and {tables.tumours} tumour slides of heatmap_train.csv, "
        f"{len(tables.largest_um2)} normal slides of didsr_method_I, {len(tables.tissue_mm2)} outlined normal slides",
    }
    write_json(arguments.out, record)
    print(json.dumps(record, indent=2))
    DetectorErrors.measured(arguments.out)  # it must read back


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
    """What the published tables and the outlines of normal slides say."""

    def __init__(self, data: Path) -> None:
        features = data / "camelyon16_features"
        rows = list(csv.DictReader((features / "heatmap_train.csv").open(encoding="utf-8")))
        counts = {side: [float(row["region_count"]) for row in rows if row["label"] == side] for side in "01"}
        self.normals, self.tumours = len(counts["0"]), len(counts["1"])
        self.share_without_a_region = counts["1"].count(0.0) / self.tumours
        self.counts = np.array(counts["0"])
        self.largest_um2 = np.stack([self._normal(features, level) for level in "59"], axis=1) * FEATURES_MPP**2
        eccentricity = np.median(self._normal(features, "9", "eccentricity_largest"))
        self.aspect = float(1 / np.sqrt(1 - eccentricity**2))
        outlines = json.loads(gzip.decompress((data / "camelyon16_lesions" / "lesions.json.gz").read_bytes()))
        self.tissue_mm2 = [
            sum(shapely.Polygon(ring).area for ring in each["negative"]) * SLIDE_MPP**2 / 1e6
            for name, each in outlines.items()
            if name.startswith("Normal")
        ]

    @staticmethod
    def _normal(features: Path, level: str, column: str = "largest_area") -> np.ndarray:
        (path,) = (features / "didsr_method_I").glob(f"*_normal_{level}_*")
        return np.array([float(row[column] or 0) for row in csv.DictReader(path.open(encoding="utf-8"))])


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
