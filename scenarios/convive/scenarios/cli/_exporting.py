"""What `convive trace ID --export otlp` does, and the export of what a host of entities does while it does it."""

import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio.abc import TaskStatus

from convive.agents import AnyRunEvent, Exporting, Observers, Place, export_trace, exporting
from convive.agents.entities import Begun
from convive.bus import Bus, RunContext
from convive.scenarios.cli._commands import tell


async def send_trace(bus: Bus, which: str) -> None:
    """Send a whole trace to the collector of the environment, and say so. Raises as `export_trace`."""
    sent = await export_trace(bus, which)
    tell(f"{sent.spans} spans sent to {sent.url}.")
    if sent.open_nodes:
        are = "step is" if sent.open_nodes == 1 else "steps are"
        tell(f"{sent.open_nodes} {are} not over yet and were left out: send it again later, nothing comes twice.")


@asynccontextmanager
async def exporting_wakes(environ: Mapping[str, str] = os.environ) -> AsyncGenerator[Begun]:
    """Gives what `host(begun=...)` is told: the wakes that this host takes up are exported, with all that they call.

    One export for each partition in which it wakes somebody, begun with the first of them. Spans only: the metrics of
    several exports in one process would stand in for one another.
    """
    opened: dict[str, tuple[Exporting, Observers]] = {}
    opening, over = anyio.Lock(), anyio.Event()
    spans_only = {**environ, "OTEL_METRICS_EXPORTER": "none"}

    async def export(place: Place, *, task_status: TaskStatus[Exporting]) -> None:
        with anyio.CancelScope(shield=True):  # what is left is sent when the host has left its wakes
            async with exporting(place, only_taken=True, warn=tell, environ=spans_only) as found:
                task_status.started(found)
                await over.wait()

    async with anyio.create_task_group() as tasks:

        async def begun(place: Place, run: RunContext) -> Observers:
            partition = f"{place.base.rpartition('.')[0]}.*"
            async with opening:
                if partition not in opened:
                    found = await tasks.start(export, Place(place.log, partition))
                    opened[partition] = found, _taking(found)
            one, observers = opened[partition]
            one.take(run)
            return observers

        try:
            yield begun
        finally:
            over.set()


def _taking(export: Exporting) -> Observers:
    """What has the agents exported that a handler calls: no tool call says that they belong to its wake."""
    observers = Observers()

    def take(event: AnyRunEvent) -> None:
        export.take(RunContext(event.run_id, event.root_run_id, event.parent_run_id))

    observers.subscribe(take)
    return observers
