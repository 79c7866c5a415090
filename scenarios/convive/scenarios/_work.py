"""What `convive worker` does: finds agents in a module and carries out the runs that are queued for them."""

from collections.abc import Iterable
from typing import Any, TypeGuard, cast

from convive.agents import Agent, exporting, place_of, work
from convive.bus import queue_name
from convive.scenarios._commands import Where, tell
from convive.scenarios._hosting import BadAgent, looked_up


async def keep_working(reference: str, queue: str, concurrency: int, where: Where) -> None:
    """Work on a queue until cancelled. Raises BadAgent, BadName, or an error of the bus."""
    queue_name(queue)
    agents = load_agents(reference)
    async with where.open() as bus:
        count = f", {concurrency} runs at a time" if concurrency > 1 else ""
        tell(f"Working on the queue {queue} as {', '.join(agents)}{count}. Ctrl-C leaves what is under way to others.")
        async with exporting(await place_of(bus, queue), only_taken=True, warn=tell) as export:
            await work(bus, agents, queue=queue, concurrency=concurrency, begun=export.take)


def load_agents(reference: str) -> dict[str, Agent[Any]]:
    """The agents of a module, or of `module:attribute` (an agent, a list or a mapping of agents), by their names.

    Imports the module, with the current directory on the path. Raises BadAgent.
    """
    module_name, colon, attribute = reference.partition(":")
    if not module_name or (colon and not attribute):
        raise BadAgent(f"{reference!r}: expected a module, or module:attribute, for example my_agents:support")
    found = looked_up(reference, module_name, attribute)
    agents: dict[str, Agent[Any]] = {}
    for one in _each(found if attribute else list(vars(found).values())):
        if _is_agent(one) and agents.setdefault(one.name, one) is not one:
            raise BadAgent(f"{reference}: two agents are called {one.name!r}; an order could mean either.")
    if not agents:
        raise BadAgent(f"{reference}: no agent is there, such as `support = Agent('support', ...)`.")
    return agents


def _each(found: object) -> Iterable[object]:
    if isinstance(found, dict):
        return cast("dict[object, object]", found).values()
    return cast("Iterable[object]", found) if isinstance(found, list | tuple) else (found,)


def _is_agent(found: object) -> TypeGuard[Agent[Any]]:
    return isinstance(found, Agent)
