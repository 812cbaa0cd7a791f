"""Exposures: open and judge them, measure them in one pass, calibrate them, rescale them without decoding."""
