"""How every side of speed.py is timed."""

import json
import resource
import time
from collections.abc import Callable

import numpy as np


def report(once: Callable[[], None], work: int, repeat: int, floor: Callable[[], float] | None = None) -> None:
    """Run `once` repeat + 1 times, the first uncounted, and print one JSON line: units of work per second, memory.

    repeat 0 counts the only run. floor: seconds that one run must take, measured after the rest.
    """
    seconds = []
    for _ in range(repeat + 1):
        began = time.perf_counter()
        once()
        seconds.append(time.perf_counter() - began)
    found = {
        "rate": work / float(np.median(seconds[1:] or seconds)),
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }
    if floor:
        found["floor_rate"] = work / floor()
    print(json.dumps(found))
