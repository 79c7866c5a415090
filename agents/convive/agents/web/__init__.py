"""A run for a browser: its events as server-sent events, or as the chunks that Vercel's AI SDK reads.

    async with run_events(bus, run_id, after=last_event_id) as events:
        async for frame in sse(events):
            ...

Both take the events of `agent.stream(...)` or of `run_events(...)`, and give the bytes of a response's body, for any
ASGI framework.
"""

from convive.agents.web._event_json import event_json
from convive.agents.web._sse import SSE_HEADERS, sse
from convive.agents.web._ui_stream import UI_STREAM_HEADERS, ui_stream

__all__ = ["SSE_HEADERS", "UI_STREAM_HEADERS", "event_json", "sse", "ui_stream"]
