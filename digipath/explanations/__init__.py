"""What in an image or a volume speaks for a class: Grad-CAM and guided backpropagation, and a check of both."""

from digipath.explanations.class_activation import GradCam, grad_cam
from digipath.explanations.guided import guided_backpropagation
from digipath.explanations.methods import METHODS, explain
from digipath.explanations.randomisation import RandomisationCheck, randomisation_check

__all__ = [
    "METHODS",
    "GradCam",
    "RandomisationCheck",
    "explain",
    "grad_cam",
    "guided_backpropagation",
    "randomisation_check",
]
