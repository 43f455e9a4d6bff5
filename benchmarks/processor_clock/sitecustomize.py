"""Python's clock counts seconds of processor, so that other work on the machine takes nothing away.

    PYTHONPATH=benchmarks/processor_clock OMP_NUM_THREADS=1 python benchmarks/time_to_quality.py ...

Python imports a module of this name when it starts, also in the processes that a benchmark starts. Those of
child processes count from their end. It is as short as a switch is.
"""

import os
import time

_BEGAN = time.monotonic()
time.monotonic = lambda: _BEGAN + sum(os.times()[:4])
