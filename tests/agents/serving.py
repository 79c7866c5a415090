"""An ASGI application on a port of this machine."""

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import uvicorn


@asynccontextmanager
async def serving(app: Any) -> AsyncGenerator[str]:
    """Its URL, while it is served."""
    running = uvicorn.Server(uvicorn.Config(app, log_level="warning", ws="none"))
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        async with anyio.create_task_group() as group:
            group.start_soon(partial(running.serve, sockets=[listening]))
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            running.should_exit = True
