"""The sample slide of the demo: a real one if it can be had, else a generated one, and which."""

from __future__ import annotations

from pathlib import Path

SAMPLE = "CMU-1-Small-Region.svs"
URL = f"https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/{SAMPLE}"
SHA256 = "ed92d5a9f2e86df67640d6f92ce3e231419ce127131697fbbce42ad5e002c8a7"
GENERATED_SIZE_L0 = (4096, 3072)


def sample_slide(folder: str | Path, data: str | Path | None = None) -> tuple[Path, str]:
    """Return a slide to try things on, and a sentence saying where it comes from.

    Looks in `data`, then downloads OpenSlide's CC0 sample with its sha256 into `folder`, then
    generates a slide there.
    """
    if data is not None and (Path(data) / SAMPLE).is_file():
        return Path(data) / SAMPLE, "a real slide, OpenSlide's CC0 sample, found here"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return _download(folder), "a real slide, OpenSlide's CC0 sample, downloaded and verified"
    except (OSError, ValueError) as error:  # offline, or a wrong hash
        reason = str(error).splitlines()[0][:100]
    from digipath.synthetic import write_slide

    path = folder / "generated.tiff"
    if not path.exists():
        write_slide(path, GENERATED_SIZE_L0, mpp=0.5, seed=1)
    return path, f"GENERATED, no real tissue: the sample slide could not be downloaded ({reason})"


def _download(folder: Path) -> Path:
    import pooch

    found = pooch.retrieve(URL, known_hash=f"sha256:{SHA256}", fname=SAMPLE, path=folder)
    return Path(found)
