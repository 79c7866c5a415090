"""What the parts of one execution share, and the wish to end it early."""

from dataclasses import dataclass

from convive.agents.journal._chain import Chain
from convive.agents.journal._live import Live
from convive.agents.runs import _events as shown
from convive.agents.runs._audience import Audience, Observers
from convive.agents.runs._frame import frame_above
from convive.agents.runs._meter import Meter
from convive.agents.runs._middleware import HookContext, Hooks
from convive.agents.runs._settings import Settings, Task
from convive.agents.tools._stopping import Stopping


class Aborted(Exception):
    """A middleware ended the run."""


@dataclass(frozen=True, slots=True)
class Execution:
    """One execution of one run."""

    settings: Settings
    task: Task
    chain: Chain
    live: Live | None
    audience: Audience
    meter: Meter
    hooks: Hooks
    stopping: Stopping

    @property
    def observers(self) -> tuple[Observers, ...]:
        """Who observes this run and those below it: the observers of the runs above, and its own."""
        above, own = self.task.observers, self.settings.observers
        return above if own is None or any(own is each for each in above) else (*above, own)

    async def show(self, event: shown.AnyRunEvent) -> None:
        """Tell whoever watches."""
        await self.audience.tell(event)


def execution_of(settings: Settings, task: Task, emit: shown.Emit | None) -> Execution:
    """The parts of an execution, with its place below the run around this code."""
    frame = frame_above(task.run)
    stopping = Stopping(None if frame is None else frame.stopping)
    context = HookContext(
        task.run,
        settings.name,
        settings.model.name,
        tuple(settings.tools),
        task.session_id,
        task.deps,
        lambda reason: stopping.ask_for(reason, "after_tools"),
    )
    above = tuple(each for each in task.observers if each is not settings.observers)
    return Execution(
        settings,
        task,
        Chain(task.place, task.run),
        Live(task.place, task.run) if task.place.live else None,
        Audience(emit, settings.on, task.listeners, task.on, settings.observers, *above),
        Meter(task.run.run_id, settings.limits, None if frame is None else frame.meter),
        Hooks(settings.middleware, context),
        stopping,
    )
