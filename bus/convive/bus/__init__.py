"""The bus: conversations, the floor, memory, and the log below them."""

from convive.bus._archive import (
    Archive,
    BadArchive,
    export_lines,
    open_archive,
)
from convive.bus._bus import (
    Bus,
    Sync,
    memory_bus,
)
from convive.bus._conversation import (
    Conversation,
)
from convive.bus._copies import (
    NameTaken,
    fork,
    import_archive,
)
from convive.bus._diff import (
    Difference,
    Happening,
    difference,
)
from convive.bus._errors import (
    BadName,
    BadRecord,
    BeyondTail,
    BusUnavailable,
    Closed,
    Conflict,
    ConviveError,
    Fenced,
    MaybeAppended,
    NewerRecord,
    NotAppended,
    ProducerReplaced,
    Trimmed,
    UnknownConversation,
    WrongStream,
)
from convive.bus._events import (
    SCHEMA,
    AsideEvent,
    BusEvent,
    Chair,
    Ended,
    Event,
    FloorEvent,
    Granted,
    Interjected,
    Joined,
    Left,
    Noted,
    Opened,
    Origin,
    Passed,
    Remembered,
    Revoked,
    Said,
    Whispered,
    event_of,
    happened_s,
    unreadable,
)
from convive.bus._floor import (
    Floor,
    OpenGrant,
    Utterance,
    fold_floor,
)
from convive.bus._folds import (
    Fold,
    Folded,
    fold_records,
)
from convive.bus._ids import (
    HOST,
    ConversationId,
    RunId,
    SeatName,
    compose_run_id,
    conversation_id,
    derive_run_id,
    is_slug,
    mint_run_id,
    run_id,
    seat_name,
    slugify,
)
from convive.bus._log import (
    Draft,
    Guard,
    Log,
    Record,
    Tail,
    matches,
)
from convive.bus._memory import (
    Memory,
    MemoryFold,
)
from convive.bus._memory_log import (
    MemoryLog,
)
from convive.bus._memory_queue import (
    MemoryWorkQueue,
)
from convive.bus._open import (
    DEFAULT_DATA,
    URL_VARIABLE,
    open_bus,
)
from convive.bus._producer import (
    Producer,
    Ticket,
)
from convive.bus._queue import (
    DeadJob,
    Job,
    Lease,
    WorkQueue,
    queue_name,
)
from convive.bus._runs import (
    RunContext,
    run_of,
)
from convive.bus._seat_memory import (
    FLOOR,
    SeatMemory,
    memory_fold,
)
from convive.bus._server import (
    EmbeddedServer,
    embedded_server,
)
from convive.bus._server_process import (
    server_binary,
    server_version,
)
from convive.bus._stream import (
    Stream,
)
from convive.bus._stream_records import (
    Entry,
    Snapshot,
    StreamReader,
    StreamRecord,
    StreamTail,
    stream_name,
)
from convive.bus._subjects import (
    Address,
    Subjects,
    address_of,
)
from convive.bus._world import (
    Private,
    World,
)

__all__ = [
    "DEFAULT_DATA",
    "FLOOR",
    "HOST",
    "SCHEMA",
    "URL_VARIABLE",
    "Address",
    "Archive",
    "AsideEvent",
    "BadArchive",
    "BadName",
    "BadRecord",
    "BeyondTail",
    "Bus",
    "BusEvent",
    "BusUnavailable",
    "Chair",
    "Closed",
    "Conflict",
    "Conversation",
    "ConversationId",
    "ConviveError",
    "DeadJob",
    "Difference",
    "Draft",
    "EmbeddedServer",
    "Ended",
    "Entry",
    "Event",
    "Fenced",
    "Floor",
    "FloorEvent",
    "Fold",
    "Folded",
    "Granted",
    "Guard",
    "Happening",
    "Interjected",
    "Job",
    "Joined",
    "Lease",
    "Left",
    "Log",
    "MaybeAppended",
    "Memory",
    "MemoryFold",
    "MemoryLog",
    "MemoryWorkQueue",
    "NameTaken",
    "NewerRecord",
    "NotAppended",
    "Noted",
    "OpenGrant",
    "Opened",
    "Origin",
    "Passed",
    "Private",
    "Producer",
    "ProducerReplaced",
    "Record",
    "Remembered",
    "Revoked",
    "RunContext",
    "RunId",
    "Said",
    "SeatMemory",
    "SeatName",
    "Snapshot",
    "Stream",
    "StreamReader",
    "StreamRecord",
    "StreamTail",
    "Subjects",
    "Sync",
    "Tail",
    "Ticket",
    "Trimmed",
    "UnknownConversation",
    "Utterance",
    "Whispered",
    "WorkQueue",
    "World",
    "WrongStream",
    "address_of",
    "compose_run_id",
    "conversation_id",
    "derive_run_id",
    "difference",
    "embedded_server",
    "event_of",
    "export_lines",
    "fold_floor",
    "fold_records",
    "fork",
    "happened_s",
    "import_archive",
    "is_slug",
    "matches",
    "memory_bus",
    "memory_fold",
    "mint_run_id",
    "open_archive",
    "open_bus",
    "queue_name",
    "run_id",
    "run_of",
    "seat_name",
    "server_binary",
    "server_version",
    "slugify",
    "stream_name",
    "unreadable",
]
