"""Every error digipath raises on purpose, one tree.

Each error also inherits the builtin it resembles, so callers may catch either.
A message is one line: what was expected, what was received, what to do, which file.

    DigipathError
    ├── BadInput (ValueError)
    │   ├── MissingResolution      no µm/px in the slide and none given
    │   ├── ResolutionTooLow       the slide is too coarse for the weights
    │   ├── BadAnnotation          a mask or outline file that cannot be used
    │   ├── BadVolume              MRI files that are no volume of one patient on one grid
    │   │   └── TumourNotFound     a network that looks for the tumour finds none
    │   ├── BadCard                a weights card that breaks the schema
    │   └── BadPredictor           a predictor that breaks its contract
    ├── NotFound (FileNotFoundError)
    │   ├── SlideNotFound
    │   └── UnknownWeights (LookupError)
    ├── SlideUnreadable (OSError)  the file is no slide, or no overview of it can be made
    ├── WeightsCorrupt (OSError)   a weights file whose sha256 is not its card's
    ├── OutputUnwritable (OSError) the output folder cannot be written, or the disk is full
    ├── CaseBusy (RuntimeError)    another run is writing this folder
    ├── CaseDiffers (RuntimeError) the folder holds results of another input or other settings
    ├── TrainingDiverged (ArithmeticError) loss or weights of a training are no longer finite
    ├── MissingExtra (ImportError) an optional package is needed and absent
    └── Cancelled (Exception)      the caller's `cancel` said so; the work can be resumed
"""

from __future__ import annotations


class DigipathError(Exception):
    """Root of the tree; `str(error)` is one line meant for the user."""


class BadInput(DigipathError, ValueError):
    """An argument or a file's content is outside what is accepted."""


class MissingResolution(BadInput):
    """The slide states no µm/px and the caller gave none."""


class ResolutionTooLow(BadInput):
    """The slide is more than twice as coarse as the network's training resolution."""


class BadAnnotation(BadInput):
    """A mask or outline file is unreadable, empty or does not fit its slide."""


class BadVolume(BadInput):
    """MRI files that are unreadable, incomplete, or not of one patient on one grid."""


class TumourNotFound(BadVolume):
    """The network that looks for the tumour finds none, and nobody outlined it."""


class BadCard(BadInput):
    """A weights card does not follow the schema."""


class BadPredictor(BadInput):
    """A predictor returned the wrong shape, type or range."""


class NotFound(DigipathError, FileNotFoundError):
    """A named file or folder does not exist."""


class SlideNotFound(NotFound):
    """The slide file does not exist."""


class UnknownWeights(NotFound, LookupError):
    """No card has this name."""


class SlideUnreadable(DigipathError, OSError):
    """The file is no slide, or no overview of it can be made."""


class WeightsCorrupt(DigipathError, OSError):
    """A weights file does not match the sha256 in its card."""


class OutputUnwritable(DigipathError, OSError):
    """The output folder cannot be created or written, or the disk is full."""


class CaseBusy(DigipathError, RuntimeError):
    """Another run holds the lock of this case folder."""


class CaseDiffers(DigipathError, RuntimeError):
    """The case folder holds results of another input or of other settings."""


class TrainingDiverged(DigipathError, ArithmeticError):
    """The loss or the weights of a training became NaN or infinite; the last good weights stay on disk."""


class MissingExtra(DigipathError, ImportError):
    """An optional dependency is needed; the message names the extra to install."""


class Cancelled(DigipathError):
    """The caller's `cancel` returned True; what was finished stays on disk."""
