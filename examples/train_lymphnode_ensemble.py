"""Train the weights that digipath ships: three small networks on 32 lymph-node crops, with their cards.

    digipath weights fetch imagenet-efficientnet-lite0
    python examples/train_lymphnode_ensemble.py --data ../shared/data --out lymphnode

Writes the manifest <out>/cases.csv and a copy of lymphnode_ensemble.toml, then does what
`digipath train --config <out>/lymphnode_ensemble.toml` does, once per seed: each seed trains every
network on every fold. The cards and weights of the first seed are those that are shipped; the
others show the spread. The same command goes on after an interruption; on a finished training it writes
the cards anew, with the words of lymphnode_ensemble.toml and the temperatures that the held-out cases
give, and trains nothing. With --ship FOLDER (the repository's weights/) what is shipped is copied there.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import statistics
from pathlib import Path

import digipath
from digipath.files import copy_atomically, read_json, write_json
from digipath.progress import progress_bar

CONFIG = Path(__file__).with_name("lymphnode_ensemble.toml")
FOLDS = 3
# Normal tissue of other slides; whose patches are one slide's go into one fold.
NORMAL_FOLDS = {"tumor_004": 0, "tumor_073": 1}
NORMAL_MPP, CROP_MPP = 0.25, 0.5  # µm per pixel; that of the crops is assumed from the size of lymphocytes


def write_manifest(data: Path, path: Path) -> None:
    """The crops, in runs of neighbouring numbers (they may be one slide's), and the normal patches."""
    crops = sorted((data / "camelyon_tumour" / "images").glob("*.jpg"))
    normals = sorted((data / "camelyon16_patches" / "normal").glob("*.png"))
    if not crops or not normals:
        raise SystemExit(f"expected camelyon_tumour/images and camelyon16_patches/normal in {data}; give --data")
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["slide", "annotation", "patient", "fold", "mpp", "centre"])
        for index, crop in enumerate(crops):
            mask = data / "camelyon_tumour" / "masks" / crop.name
            fold = index * FOLDS // len(crops)
            writer.writerow([crop.resolve(), mask.resolve(), crop.stem, fold, CROP_MPP, "camelyon_tumour"])
        for patch in normals:
            slide = patch.stem[:9]
            writer.writerow([patch.resolve(), "", slide, NORMAL_FOLDS[slide], NORMAL_MPP, "camelyon16_patches"])


def ship(card: Path, folder: Path) -> None:
    """Copy an ensemble's card, and the cards and weights of its members beside it, into a folder.

    Conformal quantiles, which other measurements put into the card there, stay as long as the networks are the same.
    """
    ensemble = read_json(card)
    same = True
    for name in ensemble["members"]:
        record, there = read_json(card.with_name(f"{name}.json")), folder / f"{name}.json"
        same = same and there.is_file() and read_json(there)["sha256"] == record["sha256"]
        copy_atomically(card.with_name(record["file"]), folder / record["file"])
        write_json(there, record)
    there = folder / card.name
    if same and there.is_file():
        ensemble["conformal"] = read_json(there)["conformal"]
    write_json(there, ensemble)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="default: ../shared/data")
    parser.add_argument("--out", type=Path, default=Path("lymphnode"), help="where to write; default: lymphnode")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="default: 0 1 2")
    parser.add_argument("--ship", type=Path, metavar="FOLDER", help="copy what is shipped of the first seed here")
    arguments = parser.parse_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    write_manifest(arguments.data, arguments.out / "cases.csv")
    config = Path(shutil.copy(CONFIG, arguments.out))
    results = []
    for seed in arguments.seeds:
        with progress_bar() as show:
            results.append(digipath.train(config, out=arguments.out / f"seed{seed}", seed=seed, progress=show))
        print((results[-1].folder / "summary.md").read_text(encoding="utf-8"))
    if arguments.ship is not None:
        ship(results[0].card, arguments.ship)
    for subject in results[0].scores:
        for number in ("pooled_dice", "pixel_auroc"):
            values = [result.scores[subject]["pooled"][number] for result in results]
            spread = f" ± {statistics.stdev(values):.4f} over {len(values)} seeds" if len(values) > 1 else ""
            print(f"{subject:12} {number:12} {statistics.mean(values):.4f}{spread}")


if __name__ == "__main__":
    main()
