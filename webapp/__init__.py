"""The viewer will live here, installed as `digipath.webapp`; there is none in this version."""
