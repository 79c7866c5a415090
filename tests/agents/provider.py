"""A local server that speaks the Messages protocol, and the model that asks it."""

import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.to_thread

from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._messages import user
from convive.agents.models._messages_server import MessagesServer, Reply, Streamed
from convive.agents.models._model import Answer, Delta, Request

KEY = "sk-ant-a-key-that-nobody-may-see"

HELLO = Request(system="You are Ada.", messages=(user("Good evening."),))

LINE = Streamed("I carry the candle, and you carry the book.")

Item = Delta | Answer


@asynccontextmanager
async def at_the_table(
    replies: Sequence[Reply], *, max_retries: int = 0, timeout_s: float = 30
) -> AsyncGenerator[tuple[AnthropicModel, MessagesServer]]:
    async with MessagesServer(replies) as server:
        model = AnthropicModel(
            "anthropic/claude-test",
            base_url=server.url,
            api_key=KEY,
            max_retries=max_retries,
            timeout_s=timeout_s,
        )
        try:
            with anyio.fail_after(20):
                yield model, server
        finally:
            await model.aclose()


async def ask(model: AnthropicModel, request: Request = HELLO) -> tuple[list[Item], Answer]:
    """The deltas, and the answer that ended them."""
    async with model.stream(request) as stream:
        *deltas, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    assert not any(isinstance(delta, Answer) for delta in deltas)
    return deltas, answer


async def run_python(script: str, **env: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANTHROPIC_")}
    command = [sys.executable, "-W", "error", "-c", script]
    run = partial(subprocess.run, command, env=inherited | env, capture_output=True, text=True, timeout=60)
    done = await anyio.to_thread.run_sync(run)
    assert done.stderr == ""
    return done.stdout.strip()
