"""Composition: which tasks run, in which order, for which field.

Importing anything from here first limits numpy's own threads to one for each task: the task
runner already keeps every core busy. Such limits are read when numpy is loaded, so they are
set before that; whoever sets them in the environment is left alone.
"""

import os

for _limit in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_limit, "1")
