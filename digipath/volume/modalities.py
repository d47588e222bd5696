"""Which file is which modality, told by names as the field gives them, and whether the names are of one patient."""

from __future__ import annotations

import os
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
_SIGNS = (  # C+ and +C, C- and -C; a hyphen between letters (t1-c) only joins them
    (re.compile(r"(?<![a-z0-9])c\+|\+\s?c(?![a-z0-9])"), " contrast "),
    (re.compile(r"(?<![a-z0-9])(c|gd|km)-(?![a-z0-9])|(?<=[\s_])-(c|gd|km)(?![a-z0-9])"), " no contrast "),
)
_WITHOUT = {"pre", "non", "no", "without", "o", "wo", "minus"}  # "w/o contrast"
_ALSO_WITHOUT = {"minus", "free", "none"}  # after the agent
_AGENT = {*_CONTRAST, "c", "iv", "agent", "medium"} - {"post", "postcontrast"}  # may stand between "no" and "contrast"
# "post-op" and "pre-op" speak of no contrast agent.
_AFTER_TREATMENT = {"op", "operative", "surgery", "surgical", "resection", "biopsy", "treatment", "therapy", "rt"}
# Outlines, subtractions and maps are no images of a modality, T2* is no T2.
_NO_MODALITY = {
    "mask", "seg", "segmentation", "label", "labels", "roi", "tumor", "tumour", "lesion", "subtraction", "subtracted",
    "map", "adc", "star",
}  # fmt: skip
_SEQUENCE = {
    "ax", "axial", "sag", "sagittal", "cor", "coronal", "tra", "2d", "3d", "pre", "brain", "stripped", "skull", "bet",
    "reg", "registered", "coreg", "resampled", "native", "n4", "norm", "mr", "mri", "image", "img", "scan", "vol",
    "series", "mprage", "bravo", "space", "cube", "spgr", "fspgr", "vibe", "se", "tse", "fse", "gre", "tfe", "ir", "fs",
    "fatsat", "iso", "flash", "run",
}  # fmt: skip
_SHORTEST_CASE = 3  # characters: less names no patient


def recognised_modality(path: str | Path) -> str | None:
    """The modality that a file's or folder's own name states, or None where it states none, or several.

    Words are told apart at anything that is no letter or digit, in any case: `BraTS19_x_t1ce.nii.gz`, `T1post`,
    `ax_t1_gd`, `T1 TSE +C`, `sub-01_ce-gadolinium_T1w` are "t1c"; `t1n`, `T1w`, `t1_pre`, `T1 without iv contrast`,
    `T1 C-` are "t1"; `t2f`, `T2-FLAIR` are "flair". Names of masks (`t1_seg`), of subtractions and of T2* state none,
    nor do those where a contrast agent is in doubt (`T1 post 6 months`, `t1_pre_post`).
    """
    return _modality_in(_stem(Path(path)))


def volume_files(paths: Mapping[str, str | Path] | Sequence[str | Path] | str | Path) -> dict[str, Path]:
    """Modality → its NIfTI file or the folder of its DICOM series, in the order of `MODALITIES`; no image is opened.

    Args:
        paths: a mapping by modality, or files and folders whose modality is recognised by name; a folder whose name
            says nothing by the description of its series.

    Raises:
        BadVolume: no file, an unknown or unrecognised modality, two files for one, one for two, or recognised names
            that begin with different cases (`TCGA-01_t1.nii.gz`, `TCGA-02_t2.nii.gz`; of a mapping, see `case_notes`).
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
    if not isinstance(paths, Mapping) and (other := _other_case(named)) is not None:
        raise BadVolume(
            f"expected modalities of one patient, got different patients by name: {other}; {BY_OPTION} if they are of "
            "one"
        )
    return {name: named[name] for name in MODALITIES if name in named}


def case_name(path: str | Path) -> str:
    """What a patient's case is called by one of its volumes: by the folder around it, and by its own name.

    `p7` of `p7/t1.nii.gz`, `mri_tcga-01` of `mri/TCGA-01_t1.nii.gz`; the folder `anat` of BIDS says nothing.
    """
    path = Path(os.path.abspath(path))
    folder, words = path.parent.name, _case(path) if path.is_file() else ()
    if "-".join(words) in "-".join(_words(folder)):
        return folder
    return "-".join(words) if folder == "anat" else f"{folder}_{'-'.join(words)}"


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


def case_notes(named: Mapping[str, Path]) -> tuple[str, ...]:
    """What the names and folders of modality → path say against one patient. DICOM series state theirs themselves."""
    if (other := _other_case(named)) is not None:
        return (f"names begin differently, {other}: are they of one patient?",)
    files = [path for path in named.values() if path.is_file()]
    homes = list(dict.fromkeys(map(_home, files)))
    if len(homes) < 2 or all(map(_case, files)):
        return ()
    return (f"files lie in different folders, {', '.join(home.name for home in homes)}: are they of one patient?",)


def _other_case(named: Mapping[str, Path]) -> str | None:
    """Two files whose names begin with different cases, in words; None where there are none."""
    cases = {name: case for name, path in named.items() if path.is_file() and (case := _case(path))}
    for (name, case), (other, its) in combinations(cases.items(), 2):
        shared = min(len(case), len(its))
        if case[:shared] != its[:shared]:
            return f"{name} {named[name].name} and {other} {named[other].name}"
    return None


def _home(path: Path) -> Path:
    """The folder that a file lies in, or the one above folders that are named by a modality."""
    return next(folder for folder in path.resolve().parents if recognised_modality(folder) is None)


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
    if found == {"t1"}:
        return {True: "t1c", False: "t1", None: None}[_with_contrast(_words(_signs_spelt_out(text)))]
    return found.pop() if len(found) == 1 else None


def _with_contrast(words: Sequence[str]) -> bool | None:
    """Whether a T1's words speak of a contrast agent; None where that is in doubt."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    words = [word for word, after in pairs if word not in ("pre", "post") or after not in _AFTER_TREATMENT]
    known = {*_SEQUENCE, *_CONTRAST, *_WORDS, "c", "iv", ""} - {"pre"}
    said: set[bool | None] = set()
    for i, word in enumerate(words):
        earlier = words[:i]
        before = next((one for one in reversed(earlier) if one not in _AGENT), "")
        after = next((one for one in words[i + 1 :] if not one.isdigit()), "")
        without = before in _WITHOUT or after in _ALSO_WITHOUT
        if word == "post":
            said.add(True if after in known and not without else None)
        elif word in _CONTRAST - {"post"} or (word == "c" and "t1" in map(_WORDS.get, earlier)):
            said.add(not without)
    if said == {True} and _WITHOUT.intersection(words):
        return None  # "t1 gd no fatsat": of what there is none, nobody can tell
    return said.pop() if len(said) == 1 else None if said else False


def _signs_spelt_out(text: str) -> str:
    found = text.lower()
    for sign, words in _SIGNS:
        found = sign.sub(words, found)
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


def _stem(path: Path) -> str:
    return re.sub(r"\.nii(\.gz)?$", "", path.name, flags=re.IGNORECASE)
