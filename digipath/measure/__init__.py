"""Measurements on maps: lesions, scores."""
