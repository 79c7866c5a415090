"""Types of entities: a name, the rows that they keep, and what is done when one is woken."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from convive.agents.entities._entity_context import Collection, Context, Wake
from convive.agents.entities._entity_records import EntityName

Handler = Callable[[Context, Wake], Awaitable[None]]
"""What is done when an entity is woken."""

MAX_ATTEMPTS = 5


@dataclass
class EntityType:
    """A kind of entity. See `Entities.define`."""

    name: str
    collections: Mapping[str, Collection[Any]]
    timeout_s: float | None
    max_attempts: int
    handler: Handler | None = None


@dataclass
class Entities:
    """The types that a host knows."""

    types: dict[str, EntityType] = field(default_factory=dict[str, EntityType])

    def define(
        self,
        name: str,
        *,
        collections: Sequence[Collection[Any]] = (),
        timeout_s: float | None = None,
        max_attempts: int = MAX_ATTEMPTS,
    ) -> Callable[[Handler], Handler]:
        """A type of entities: `counter`, for `counter/ada`. Decorate its handler with what this returns;
        without one, it is rows that others share.

        `timeout_s`: how long a handler may run; then it is an attempt that failed. `max_attempts`: how often a wake is
        tried before its failure is recorded.
        Raises BadEntity for a name that is none, ValueError for one that is taken.
        """
        EntityName.of(f"{name}/1")
        if name in self.types:
            raise ValueError(f"there is an entity type {name!r} already")
        by_name = {collection.name: collection for collection in collections}
        if len(by_name) < len(collections):
            raise ValueError(f"two collections of {name!r} have the same name")
        if max_attempts < 1:
            raise ValueError(f"a wake is tried once at least, not {max_attempts} times")
        kind = self.types[name] = EntityType(name, by_name, timeout_s, max_attempts)

        def handle(handler: Handler) -> Handler:
            kind.handler = handler
            return handler

        return handle
