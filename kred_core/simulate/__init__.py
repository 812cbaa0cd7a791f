"""Simulated fields with known truth, in the format of real Community Pipeline files.

`simulate_field` makes one; ``python -m kred_core.simulate`` does so from the command line.
The truth (zero points, sky levels, offsets, stars, planted faults, the noiseless sky)
is written beside the data. It is apart from the pipeline: no stage imports it.
"""

from .config import FAULTS, SimulationConfig
from .field import Simulation, TruthPaths, simulate, simulate_field
from .pixels import diffuse_brightness, sky_brightness

__all__ = [
    "FAULTS",
    "Simulation",
    "SimulationConfig",
    "TruthPaths",
    "diffuse_brightness",
    "simulate",
    "simulate_field",
    "sky_brightness",
]
