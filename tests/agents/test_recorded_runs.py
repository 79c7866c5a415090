"""Which recorded run is which run of now, where ids do not tell."""

import time

from convive.agents.journal._journal import ModelAnswered, RunStarted
from convive.agents.journal._recorded import Recorded
from convive.agents.models._messages import Text
from convive.bus import RunContext


def recorded(runs: int) -> tuple[Recorded, RunContext]:
    """A recording of a run and of those below it; each was told its number."""
    above, told = RunContext.root(), Recorded()
    told.take(above, 1, RunStarted(agent="chief", model="m", root=above.root_run_id))
    for number in range(runs):
        run = above.child()
        told.take(run, number + 2, RunStarted(agent="guest", model="m", root=above.root_run_id))
        parts = (Text(text=str(number)),)
        told.take(run, number + 2, ModelAnswered(trip=0, parts=parts, stop_reason="end", asked="it"))
    return told, above


def test_the_runs_of_a_fork_are_the_recorded_ones_in_their_order() -> None:
    told, above = recorded(5)
    others = [above.child() for _ in range(5)]
    heard = [told.answer(run, 0, "it").text for run in (others[0], others[1])]
    told.check_arguments(others[1], 0, 0, {})
    heard += [told.answer(run, 0, "it").text for run in others[2:]]
    assert heard == ["0", "1", "2", "3", "4"]


def test_thousands_of_them_are_found_in_time_that_is_linear() -> None:
    """Looked for among all that are taken, this many take two minutes."""
    told, above = recorded(3_000)
    began = time.perf_counter()
    assert [told.answer(above.child(), 0, "it").text for _ in range(3_000)] == [str(n) for n in range(3_000)]
    assert time.perf_counter() - began < 10
