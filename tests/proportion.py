"""Whether work takes time in proportion to how much of it there is."""

import gc
import time
from collections.abc import Callable

ROUNDS = 3


def times_as_long(prepared: Callable[[int], Callable[[], object]], few: int, many: int) -> float:
    """How many times as long each of many takes as each of few: 1 where it is linear, many / few where quadratic.

    `prepared(count)` makes what is timed, afresh for each round. It is the CPU time of the process, the least of some
    rounds, and without the garbage collector, which looks at all that other tests have left in the process.
    """
    return _least_s(prepared, many) / many / (_least_s(prepared, few) / few)


def _least_s(prepared: Callable[[int], Callable[[], object]], count: int) -> float:
    took: list[float] = []
    for _ in range(ROUNDS):
        act = prepared(count)
        gc.collect()
        gc.disable()
        try:
            began_s = time.process_time()
            act()
            took.append(time.process_time() - began_s)
        finally:
            gc.enable()
    return min(took)
