"""What `convive worker` does: finds agents and entities in a module, carries out queued runs, and hosts."""

from collections.abc import Iterable, Mapping
from typing import Any, TypeGuard, cast

import anyio
from anyio.abc import TaskStatus

from convive.agents import Agent, AgentSeat, exporting, place_of, work
from convive.agents.entities import Entities, host
from convive.bus import Bus, queue_name
from convive.scenarios.cli._commands import Where, tell
from convive.scenarios.cli._exporting import exporting_wakes
from convive.scenarios.cli._hosting import BadAgent, looked_up


async def keep_working(reference: str, queue: str, concurrency: int, where: Where) -> None:
    """Work on a queue until cancelled. Raises BadAgent, BadName, or an error of the bus."""
    queue_name(queue)
    agents, entities = load(reference)
    async with where.open() as bus, anyio.create_task_group() as tasks:
        measured: Bus = await tasks.start(_work, bus, agents, queue, concurrency)
        if entities.types:
            tell(f"Hosting entities of the types {', '.join(entities.types)}.")
            tasks.start_soon(_host, measured, entities)
        tell("Ctrl-C leaves what is under way to others.")


async def _host(bus: Bus, entities: Entities) -> None:
    async with exporting_wakes() as begun:
        await host(bus, entities, begun=begun)


async def _work(
    bus: Bus, agents: Mapping[str, Agent[Any]], queue: str, concurrency: int, *, task_status: TaskStatus[Bus]
) -> None:
    """Work, if there are agents. Gives the bus through which all that this process appends is measured."""
    async with exporting(await place_of(bus, queue), only_taken=True, warn=tell) as export:
        measured = export.measured(bus)
        if agents:
            count = f", {concurrency} runs at a time" if concurrency > 1 else ""
            tell(f"Working on the queue {queue} as {', '.join(agents)}{count}.")
        task_status.started(measured)
        if agents:
            await work(measured, agents, queue=queue, concurrency=concurrency, begun=export.take)
        else:
            await anyio.sleep_forever()


def load_agents(reference: str) -> dict[str, Agent[Any]]:
    """The agents of a module, or of `module:attribute`, by their names. Raises BadAgent when there is none."""
    agents, _ = _loaded(reference)
    if not agents:
        raise BadAgent(f"{reference}: no agent is there, such as `support = Agent('support', ...)`.")
    return agents


def load(reference: str) -> tuple[dict[str, Agent[Any]], Entities]:
    """The agents and entities of a module, or of `module:attribute` (one, a list or a mapping of them).

    Imports the module, with the current directory on the path. Raises BadAgent when there is neither.
    """
    agents, entities = _loaded(reference)
    if not agents and not entities.types:
        raise BadAgent(
            f"{reference}: no agent is there, such as `support = Agent('support', ...)`, and no `Entities()`."
        )
    return agents, entities


def _loaded(reference: str) -> tuple[dict[str, Agent[Any]], Entities]:
    module_name, colon, attribute = reference.partition(":")
    if not module_name or (colon and not attribute):
        raise BadAgent(f"{reference!r}: expected a module, or module:attribute, for example my_agents:support")
    found = looked_up(reference, module_name, attribute)
    agents: dict[str, Agent[Any]] = {}
    entities = Entities()
    for one in _each(found if attribute else list(vars(found).values())):
        if attribute and isinstance(one, AgentSeat):
            agents[one.agent.name] = one.agent  # as a party names the guest whose run this is
        elif isinstance(one, Entities):
            entities.types.update(one.types)
        elif _is_agent(one) and agents.setdefault(one.name, one) is not one:
            raise BadAgent(f"{reference}: two agents are called {one.name!r}; an order could mean either.")
    return agents, entities


def _each(found: object) -> Iterable[object]:
    if isinstance(found, dict):
        return cast("dict[object, object]", found).values()
    return cast("Iterable[object]", found) if isinstance(found, list | tuple) else (found,)


def _is_agent(found: object) -> TypeGuard[Agent[Any]]:
    return isinstance(found, Agent)
