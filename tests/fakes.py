"""Predictors that need no network; importable by name from the command line."""

from __future__ import annotations

import os
import time

import numpy as np


def redness(patches):
    """(B, P, P, 3) uint8 → the red channel as a probability, (B, P, P, 1)."""
    return patches[..., :1].astype(np.float32) / 255


redness.patch = 256
redness.classes = ("normal", "tumour")


def identity(patches):
    """The pixels themselves, three classes."""
    return patches.astype(np.float32) / 255


identity.patch = 192


def half(patches):
    """The constant 0.5, two classes."""
    return np.full((*patches.shape[:-1], 2), 0.5, np.float32)


def coarse(patches):
    """Redness at the resolution of an overview."""
    return redness(patches)


coarse.patch, coarse.at_mpp = 128, 28.97


def slow(patches):
    """Redness, slowly, so that a test can kill it at work."""
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0.05")))
    return redness(patches)


slow.patch = 256


def broken(patches):
    """Answers outside [0, 1]."""
    return redness(patches) + 2


def grader(tiles):
    """(B, P, P, 3) uint8 → (B, 3): grade 2, 3 or 4 by how red a tile is on average, with a probability of 0.8."""
    level = np.digitize(tiles[..., 0].mean(axis=(1, 2)), [150, 200])
    return np.where(np.arange(3) == level[:, None], 0.8, 0.1).astype(np.float32)


grader.patch = 256
grader.classes = ("grade 2", "grade 3", "grade 4")
grader.name = "fakes.grader"


def slow_grader(tiles):
    """The same, slowly, so that a test can kill it at work."""
    time.sleep(float(os.environ.get("FAKE_SECONDS", "0.05")))
    return grader(tiles)


slow_grader.patch = 256
slow_grader.classes = grader.classes
