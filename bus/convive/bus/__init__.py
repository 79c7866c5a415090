"""The bus: conversations, the floor, memory, and the log below them."""

from convive.bus._errors import (
    BadName,
    BadRecord,
    BusUnavailable,
    Closed,
    Conflict,
    ConviveError,
    MaybeAppended,
    NotAppended,
    UnknownConversation,
    WrongStream,
)
from convive.bus._log import Draft, Guard, Log, Record, Tail
from convive.bus._memory_log import MemoryLog
