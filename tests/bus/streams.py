"""What tests of streams share, on one node and on three."""

from collections.abc import Sequence

import anyio

from convive.bus import ProducerReplaced, Stream


async def values(stream: Stream) -> list[object]:
    async with stream.read() as records:
        return [record.json() async for record in records]


async def fight_for_one_id(streams: Sequence[Stream], lines: list[int], at_once: int, patience_s: float) -> None:
    """Submit all lines by a producer on each of the streams, of one id, so that they take over from one another."""

    async def produce(stream: Stream) -> None:
        while True:
            try:
                async with stream.producer("lines") as producer:
                    if producer.resumed_at == len(lines):
                        return
                    for line in lines[producer.resumed_at : producer.resumed_at + at_once]:
                        await producer.submit(line)
            except ProducerReplaced:
                continue

    with anyio.fail_after(patience_s):
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(produce, stream)
