"""The ranges of a net's activations, measured on photographs of the kind that it will see."""

from alexc.calibrate.calibration import Calibration, calibrate
from alexc.calibrate.images import load_images

__all__ = ["Calibration", "calibrate", "load_images"]
