"""What `convive trace ID --export otlp` does."""

from convive.agents import export_trace
from convive.bus import Bus
from convive.scenarios.cli._commands import tell


async def send_trace(bus: Bus, which: str) -> None:
    """Send a whole trace to the collector of the environment, and say so. Raises as `export_trace`."""
    sent = await export_trace(bus, which)
    tell(f"{sent.spans} spans sent to {sent.url}.")
    if sent.open_nodes:
        are = "step is" if sent.open_nodes == 1 else "steps are"
        tell(f"{sent.open_nodes} {are} not over yet and were left out: send it again later, nothing comes twice.")
