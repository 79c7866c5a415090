"""Who is there: requests between processes that the server passes on and nobody stores.

They go by subjects outside of every stream, `present.` in front of that of a record. A server that knows of nobody who
listens answers itself, with status 503.
"""

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import nats.errors
from nats.aio.msg import Msg

from convive.bus.jetstream._connect import CLOSED, Connection

_INBOX = "_INBOX."
"""How the subjects begin on which clients are answered."""

_LEAVING_S = 1.0


def asked_on(subject: str) -> str:
    """Where is asked whether somebody is present on a subject."""
    return f"present.{subject}"


@asynccontextmanager
async def present(connection: Connection, subject: str) -> AsyncGenerator[None]:
    """See `Log.present`."""

    async def answer(message: Msg) -> None:
        # Whoever asks chooses where the answer goes: it must not be a way to write into somebody's log.
        if message.reply.startswith(_INBOX):
            with contextlib.suppress(nats.errors.Error):
                await connection.client.publish(message.reply)

    subscription = await connection.subscribe(asked_on(subject), answer)
    try:
        yield
    finally:
        with anyio.move_on_after(_LEAVING_S, shield=True), contextlib.suppress(nats.errors.Error):
            await subscription.unsubscribe()


async def is_present(connection: Connection, subject: str, timeout_s: float) -> bool | None:
    """See `Log.is_present`."""
    try:
        await connection.client.request(asked_on(subject), timeout=timeout_s)
    except nats.errors.NoRespondersError:
        return False
    except CLOSED:
        raise connection.closed() from None
    except (nats.errors.TimeoutError, nats.errors.OutboundBufferLimitError):
        return None
    return True
