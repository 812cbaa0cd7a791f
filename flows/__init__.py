"""Composition: which tasks run, in which order, for which field.

Importing anything from here first sets what numpy, Prefect and Dask read from the environment when they
are loaded; whoever sets these variables differently is left alone.
"""

import atexit
import gc
import os

# The task runner keeps every core busy already: one thread for each task.
for _limit in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_limit, "1")

# Prefect would report the first run of each user to its makers, and say so in the terminal.
os.environ.setdefault("DO_NOT_TRACK", "1")

# Each of Dask's workers would tell a dozen lines about itself.
os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")

# Python would look for garbage among all modules again and again: when it ends (2 of the 10 s of CPU that a run with nothing to
# do takes, with its server), and before (one more).
atexit.register(gc.freeze)
gc.set_threshold(100_000, 20, 100)
