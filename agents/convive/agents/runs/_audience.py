"""Who is told of a run's events: a stream, three tiers of handlers, and observers."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import anyio

from convive.agents.runs._events import AnyRunEvent, Emit, EventName
from convive.agents.tools._stopping import being_cancelled

_log = logging.getLogger("convive.agents")

EventHandler = Callable[[Any], object]
"""Takes an event; sync or async. One that raises is logged once in a run, and the run goes on."""
On = Mapping[EventName, EventHandler | Sequence[EventHandler]]
"""Handlers by the `type` of the event; `"*"` takes all."""

_DELTAS = ("text_delta", "thinking_delta", "arguments_delta")


class Listeners:
    """Handlers that come and go, also while runs are under way."""

    def __init__(self) -> None:
        self._handlers: dict[str, list[EventHandler]] = {}

    def add(self, name: EventName, handler: EventHandler) -> Callable[[], None]:
        """Add a handler; the function that is returned takes it away again."""
        entry = _Entry(handler)
        self._handlers.setdefault(name, []).append(entry)

        def off() -> None:
            if entry in self._handlers.get(name, ()):
                self._handlers[name].remove(entry)

        return off

    def __bool__(self) -> bool:
        return any(self._handlers.values())

    def of(self, name: str) -> tuple[EventHandler, ...]:
        """The handlers of an event as they are now."""
        return (*self._handlers.get(name, ()), *self._handlers.get("*", ()))


class _Entry:
    """One subscription: the same handler may be subscribed twice."""

    def __init__(self, handler: EventHandler) -> None:
        self._handler = handler

    def __call__(self, event: AnyRunEvent) -> object:
        return self._handler(event)


class Observers:
    """Telemetry without middleware: hand it to agents as `observers=`, subscribe to it.

    Observers hear of the agents' runs and of all runs below them, all but deltas.
    """

    def __init__(self) -> None:
        self._listeners = Listeners()

    def subscribe(self, observer: EventHandler) -> Callable[[], None]:
        """Tell `observer` of every event from now on; the function that is returned ends that."""
        return self._listeners.add("*", observer)

    def __bool__(self) -> bool:
        return bool(self._listeners)

    def of(self, name: str) -> tuple[EventHandler, ...]:
        """Who is told of an event."""
        return () if name in _DELTAS else self._listeners.of(name)


Tier = On | Listeners | Observers


class Audience:
    """All that listen to one run, in the order in which they are told. False when there is nobody."""

    def __init__(self, emit: Emit | None, *tiers: Tier | None) -> None:
        self._emit = emit
        # An empty collection of handlers may fill while the run is under way; an empty mapping may not.
        self._tiers: tuple[Tier, ...] = tuple(
            tier for tier in tiers if tier is not None and (tier or not isinstance(tier, Mapping))
        )
        self._failed: set[str] = set()

    def __bool__(self) -> bool:
        return self._emit is not None or any(self._tiers)

    async def tell(self, event: AnyRunEvent) -> None:
        """Tell everyone, one after the other. Raises nothing that a handler raises."""
        if self._emit is not None:
            await self._emit(event)
        for tier in self._tiers:
            for handler in _handlers(tier, event.type):
                await self._call(handler, event)

    async def _call(self, handler: EventHandler, event: AnyRunEvent) -> None:
        try:
            done = handler(event)
            if inspect.isawaitable(done):
                await done
        except (
            Exception,
            anyio.get_cancelled_exc_class(),
        ) as error:  # a watcher is foreign code; what it watches goes on
            if not isinstance(error, Exception) and being_cancelled():
                raise
            if event.type not in self._failed:
                self._failed.add(event.type)
                _log.exception("a handler of %s failed in run %s", event.type, event.run_id)


def _handlers(tier: Tier, name: EventName) -> Sequence[EventHandler]:
    if isinstance(tier, Listeners | Observers):
        return tier.of(name)
    found: list[EventHandler] = []
    for key in (name, "*"):
        given = tier.get(key, ())
        found += [given] if callable(given) else given
    return found
