"""Which file is which modality, told by names as the field gives them, and whether the names are of one patient."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path

from digipath.errors import BadVolume, NotFound
from digipath.volume.dicom import series_description
from digipath.volume_values import MODALITIES

BY_OPTION = "name each by option (--t1, --t1c, --t2, --flair) or, in Python, by a mapping such as {'t1c': path}"

_WORDS = {
    **dict.fromkeys(("t1", "t1w", "t1n", "t1wi", "t1pre"), "t1"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd", "t1post", "t1km", "t1wce", "t1wgd", "ct1"), "t1c"),
    **dict.fromkeys(("t2", "t2w", "t2wi"), "t2"),
    **dict.fromkeys(("flair", "t2flair", "t2f"), "flair"),
}
_CONTRAST = {"ce", "gd", "gad", "gado", "gadolinium", "post", "postcontrast", "contrast", "enhanced", "km"}
_WITHOUT = {"pre", "non", "no", "without", "o"}  # "w/o contrast"
_AFTER_TREATMENT = {"op", "operative", "surgery", "treatment", "rt"}  # "post-op" speaks of no contrast agent
_NO_MODALITY = {"mask", "seg", "segmentation", "label", "labels", "star"}  # outlines; T2* is no T2
_SEQUENCE = {
    "ax", "axial", "sag", "sagittal", "cor", "coronal", "tra", "2d", "3d", "pre", "brain", "stripped", "skull", "bet",
    "reg", "n4", "norm", "mr", "mri", "image", "img", "scan", "vol", "series",
}  # fmt: skip
_SHORTEST_CASE = 3  # characters: less names no patient


def recognised_modality(path: str | Path) -> str | None:
    """The modality that a file's or folder's own name states, or None where it states none, or several.

    Words are told apart at anything that is no letter or digit, in any case: `BraTS19_x_t1ce.nii.gz`, `T1post`,
    `ax_t1_gd`, `sub-01_ce-gadolinium_T1w` are "t1c"; `t1n`, `T1w`, `t1_pre` are "t1"; `t2f`, `T2-FLAIR` are "flair".
    Names of masks (`t1_seg`) and of T2* state none.
    """
    return _modality_in(_stem(Path(path)))


def volume_files(paths: Mapping[str, str | Path] | Sequence[str | Path] | str | Path) -> dict[str, Path]:
    """Modality → its NIfTI file or the folder of its DICOM series, in the order of `MODALITIES`; no image is opened.

    Args:
        paths: a mapping by modality, or files and folders whose modality is recognised by name; a folder whose name
            says nothing by the description of its series.

    Raises:
        BadVolume: no file, an unknown or unrecognised modality, two files for one, one for two, or names that begin
            with different cases (`TCGA-01_t1.nii.gz`, `TCGA-02_t2.nii.gz`).
        NotFound: a file or folder does not exist.
    """
    if isinstance(paths, str | Path):
        paths = [paths]
    named = {name: Path(path) for name, path in paths.items()} if isinstance(paths, Mapping) else _by_name(paths)
    if not named:
        raise BadVolume(f"expected files of at least one of {', '.join(MODALITIES)}, got none; {BY_OPTION}")
    if unknown := [str(name) for name in named if name not in MODALITIES]:
        raise BadVolume(f"a modality is one of {', '.join(MODALITIES)}, got {', '.join(unknown)}")
    for path in named.values():
        _check_there(path)
    _check_distinct(named)
    _check_one_case(named)
    return {name: named[name] for name in MODALITIES if name in named}


def _by_name(paths: Sequence[str | Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        _check_there(path)
        modality = recognised_modality(path) or _modality_in(series_description(path) or "")
        if modality is None:
            raise BadVolume(f"expected a name that states one modality (T1, T1c, T2, FLAIR), got {path}; {BY_OPTION}")
        if modality in found:
            raise BadVolume(f"expected one file for {modality}, got {found[modality]} and {path}; {BY_OPTION}")
        found[modality] = path
    return found


def _check_there(path: Path) -> None:
    if not path.exists():
        raise NotFound(f"expected a NIfTI file or a folder of one DICOM series, found nothing at {path}")


def _check_distinct(named: Mapping[str, Path]) -> None:
    first: dict[Path, str] = {}
    for name, path in named.items():
        other = first.setdefault(path.resolve(), name)
        if other != name:
            raise BadVolume(f"expected a file for each modality, got {path} for both {other} and {name}")


def _check_one_case(named: Mapping[str, Path]) -> None:
    cases = {name: case for name, path in named.items() if path.is_file() and (case := _case(path))}
    for (name, case), (other, its) in combinations(cases.items(), 2):
        shared = min(len(case), len(its))
        if case[:shared] != its[:shared]:
            raise BadVolume(
                f"expected modalities of one patient, got different patients by name: {name} {named[name].name} and "
                f"{other} {named[other].name}; rename or copy the files if they are of one"
            )


def _case(path: Path) -> tuple[str, ...]:
    """The words of a name before its modality, which name the case; () where there are none."""
    words = _words(_stem(path))
    if words[:1] == ["sub"]:  # BIDS: subject, session; what follows speaks of the acquisition
        return tuple(words[:4] if words[2:3] == ["ses"] else words[:2])
    if not any(word in _WORDS for word in words):
        return ()
    length = next(i for i, word in enumerate(words) if word in _WORDS or word in _CONTRAST or word in _SEQUENCE)
    return tuple(words[:length]) if len("".join(words[:length])) >= _SHORTEST_CASE else ()


def _modality_in(text: str) -> str | None:
    words = _words(text)
    found = {_WORDS[word] for word in words if word in _WORDS}
    if _NO_MODALITY.intersection(words):
        return None
    if found == {"t2", "flair"}:  # T2-FLAIR
        return "flair"
    if found == {"t1"} and _with_contrast(words):
        return "t1c"
    return found.pop() if len(found) == 1 else None


def _with_contrast(words: Sequence[str]) -> bool:
    """Whether a T1's words speak of a contrast agent, and not of none or of a time after treatment."""
    around = zip(["", *words], words, [*words[1:], ""], strict=False)
    return any(
        (word in _CONTRAST and before not in _WITHOUT and not (word == "post" and after in _AFTER_TREATMENT))
        or (word == "c" and _WORDS.get(before) == "t1")
        for before, word, after in around
    )


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
