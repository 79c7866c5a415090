"""Entities: durable actors. Each has a name, a mailbox, rows of typed state, and a handler that is woken.

    entities = Entities()
    tally = Collection("tally", Tally)

    @entities.define("counter", collections=[tally])
    async def counter(context: Context, wake: Wake) -> None: ...

A process that runs `host(bus, entities)` wakes them; `spawn`, `send` and `look` work from anywhere.
"""

from convive.agents.entities._entities import Entities, EntityType, Handler
from convive.agents.entities._entity_carrier import HostsLost
from convive.agents.entities._entity_client import (
    EntityOver,
    UnknownEntity,
    find,
    follow,
    look,
    names_of,
    put,
    runs,
    send,
    signal,
    spawn,
)
from convive.agents.entities._entity_context import BadRow, Collection, Context, NotInATool, Rows, Wake
from convive.agents.entities._entity_copies import NoEntity, entity_in, export_entity, import_entity, revive
from convive.agents.entities._entity_desk import Begun
from convive.agents.entities._entity_host import host
from convive.agents.entities._entity_json import entity_json
from convive.agents.entities._entity_reading import Forgotten
from convive.agents.entities._entity_records import BadEntity, EntityName, Letter, Signal, Woken
from convive.agents.entities._entity_state import EntityState, Failure, Timer, Waiting
from convive.agents.entities._entity_trim import trim
from convive.agents.entities._entity_verify import EntityVerdict, verify_entity

__all__ = [
    "BadEntity",
    "BadRow",
    "Begun",
    "Collection",
    "Context",
    "Entities",
    "EntityName",
    "EntityOver",
    "EntityState",
    "EntityType",
    "EntityVerdict",
    "Failure",
    "Forgotten",
    "Handler",
    "HostsLost",
    "Letter",
    "NoEntity",
    "NotInATool",
    "Rows",
    "Signal",
    "Timer",
    "UnknownEntity",
    "Waiting",
    "Wake",
    "Woken",
    "entity_in",
    "entity_json",
    "export_entity",
    "find",
    "follow",
    "host",
    "import_entity",
    "look",
    "names_of",
    "put",
    "revive",
    "runs",
    "send",
    "signal",
    "spawn",
    "trim",
    "verify_entity",
]
