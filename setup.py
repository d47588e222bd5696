"""Packaging: one installed package `digipath`, with `webapp/` and `weights/` inside it."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["digipath*"]), "digipath.cards", "digipath.webapp"],
    package_dir={"digipath.cards": "weights", "digipath.webapp": "webapp"},
    package_data={
        "digipath.cards": ["*.json", "*.weights.h5", "*.skops"],
        "digipath": ["py.typed"],
        "digipath.synthetic": ["*.json"],
        "digipath.training": ["*.toml"],
    },
)
