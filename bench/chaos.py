"""Kill whatever can be killed, and prove that nothing was lost.

    uv run python bench/chaos.py --seed 1 --minutes 10 [--nodes 3]

Parties with doubled seats and two supervisors, writers, producers that replace one another, readers and followers run
in processes of their own, each behind a TCP proxy. Meanwhile servers and processes are killed with SIGKILL or stopped
for a while, and connections are cut or go deaf, by a schedule that the seed makes. Every append is noted before it is
sent and when it is answered. At the end:

- what was acknowledged is in the log, at the place that was told; nothing is doubled, and nothing is there unasked;
- what a producer counted is there once and in order, whoever had its id when;
- every follower saw all of it once, in the order of the log, also across its own deaths;
- every party came to its end and verifies: one speaker a turn, memories and journals whole;
- what everybody was told (appends, conflicts, reads) is linearizable: `convive verify --history .../history.jsonl`.

Ends with 0, or with 1 and the place of the evidence.
"""

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from chaos_nodes import Cluster, cluster
from chaos_proof import (
    Proof,
    all_lines,
    as_lines,
    attempts_of,
    check_followers,
    check_order,
    check_parties,
    check_producers,
    check_records,
    operations,
    reads_of,
)
from chaos_roles import COUNTED, END, FOLLOWED, LOST, PLAIN, SEATS
from convive.bus import Bus, Draft, address_of, matches, open_bus

HERE = Path(__file__).parent
PARTY = (
    ("lead",),
    ("lead", "--standby", "1"),
    *(("sit", "--seat", seat) for seat in SEATS),
    ("sit", "--seat", SEATS[1]),
    ("heckle",),
)
"""The processes of a party; bob's seat is taken twice."""
PLAINLY = (
    ("produce",),
    *(("submit", "--name", name) for name in ("one", "one", "two")),
    ("look",),
    ("follow",),
    ("follow",),
)
"""The processes beside the parties; two of them have the same id as a producer."""
RECORDED = ("lead", "sit", "heckle", "produce", "submit")
ENDS_S = 120.0
"""How long a party may take to come to its end once nothing is killed any more."""


Harm = Callable[[float, float], Coroutine[Any, Any, None]]
"""What is done, to whom and for how long: two numbers from 0 to 1."""


@dataclass
class Child:
    """A process that is started again whenever it dies, until its work is over."""

    name: str
    process: asyncio.subprocess.Process | None = None
    wanted: bool = True


class Chaos:
    """A run: the processes, and what was done to them."""

    def __init__(self, servers: Cluster, evidence: Path, chance: Random, given: argparse.Namespace) -> None:
        self.servers = servers
        self.evidence = evidence
        self.chance = chance
        self.given = given
        self.children: list[Child] = []
        self.parties: list[str] = []
        self.done = Counter[str]()
        self.over = False
        self._healing = False
        self.proof = Proof()

    async def party(self) -> None:
        """Hold one party after the other."""
        while not self.over:
            name = f"party-{len(self.parties)}"
            self.parties.append(name)
            async with asyncio.TaskGroup() as tasks:
                for role, *more in PARTY:
                    tasks.create_task(self.keep(role, "--party", name, *more))

    async def keep(self, role: str, *more: str) -> None:
        """Run a process, again and again, until it says that its work is over or nobody wants it any more."""
        number = sum(child.name.startswith(f"{role}-") for child in self.children)
        child = Child(f"{role}-{number}")
        self.children.append(child)
        notes = self.evidence / f"{child.name}.jsonl"
        command = [sys.executable, str(HERE / "chaos_roles.py"), role, "--url", self.servers.url, "--notes", str(notes)]
        command += ["--replicas", str(len(self.servers.nodes)), "--seed", str(self.given.seed * 1_000 + number), *more]
        while child.wanted:
            with (self.evidence / f"{child.name}.err").open("ab") as errors:
                child.process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stderr=errors)
                self.done["processes"] += 1
                if not child.wanted:
                    _send(child.process, signal.SIGTERM)
                code = await child.process.wait()
            child.process = None
            if code == 0:
                return
            if code not in (LOST, -signal.SIGKILL, -signal.SIGTERM):
                self.proof.fault(f"{child.name} ended with {code}: see {child.name}.err")
                return

    async def rage(self) -> None:
        """Do harm until the time is up."""
        until = time.monotonic() + self.given.minutes * 60
        harms: list[Harm] = [self.kill, self.kill, self.kill, self.stop, self.server, self.cut, self.deafen]
        async with asyncio.TaskGroup() as tasks:
            while time.monotonic() < until:
                await asyncio.sleep(self.chance.uniform(0.2, 2.5))
                tasks.create_task(self.chance.choice(harms)(self.chance.random(), self.chance.random()))

    async def kill(self, which: float, _: float) -> None:
        """kill -9 of a process."""
        child = self._pick(which)
        if child is not None:
            _send(child, signal.SIGKILL)
            self.done["processes killed"] += 1

    async def stop(self, which: float, long: float) -> None:
        """A process stands still for a while, and does not know."""
        child = self._pick(which)
        if child is not None:
            _send(child, signal.SIGSTOP)
            self.done["processes stopped"] += 1
            await asyncio.sleep(4 * long)
            _send(child, signal.SIGCONT)

    async def server(self, which: float, long: float) -> None:
        """kill -9 of a server, and a restart; of three, one at a time."""
        nodes = self.servers.nodes
        if self._healing:
            return
        self._healing = True
        node = nodes[int(which * len(nodes))]
        node.kill()
        self.done["servers killed"] += 1
        await asyncio.sleep(2 * long)
        node.start()
        await node.ready()
        self._healing = False

    async def cut(self, which: float, _: float) -> None:
        """All connections through one line break."""
        self.servers.lines[int(which * len(self.servers.lines))].cut()
        self.done["lines cut"] += 1

    async def deafen(self, which: float, long: float) -> None:
        """What a server says is lost for a while, acknowledgements too; then the line breaks."""
        line = self.servers.lines[int(which * len(self.servers.lines))]
        line.deaf = True
        await asyncio.sleep(long)
        line.deaf = False
        line.cut()
        self.done["lines deaf"] += 1

    def _pick(self, which: float) -> asyncio.subprocess.Process | None:
        living = [child.process for child in self.children if child.process and child.process.returncode is None]
        return living[int(which * len(living))] if living else None

    def dismiss(self, *roles: str) -> None:
        """End processes whose work has no end."""
        for child in self.children:
            if child.name.rpartition("-")[0] in roles:
                child.wanted = False
                if child.process is not None:
                    _send(child.process, signal.SIGTERM)

    async def all_of_it(self) -> None:
        """The whole run: begin, harm, come to an end."""
        try:
            await self._all_of_it()
        finally:
            for child in self.children:
                if child.process is not None:
                    _send(child.process, signal.SIGKILL)

    async def _all_of_it(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            parties = tasks.create_task(self.party())
            plain = [tasks.create_task(self.keep(*role)) for role in PLAINLY]
            await self.rage()
            self.over = True
            await self._within(ENDS_S, [parties], "the last party did not end")
            self.dismiss("produce", "submit", "look")
            async with self.bus() as bus:
                plain_streams = await bus.conversation(PLAIN)
                await plain_streams.log.append(Draft(f"{plain_streams.subjects.base}.stream.{END}", b"that is all"))
            await self._within(ENDS_S, plain, "some did not come to their end")

    def bus(self) -> AbstractAsyncContextManager[Bus]:
        """The bus, past all lines."""
        return open_bus(self.servers.direct, partitions=1, replicas=len(self.servers.nodes))

    async def _within(self, seconds: float, tasks: Sequence[asyncio.Task[None]], otherwise: str) -> None:
        _, late = await asyncio.wait(tasks, timeout=seconds)
        if late:
            living = [child for child in self.children if child.process and child.process.returncode is None]
            self.proof.fault(f"{otherwise}: {', '.join(child.name for child in living)}; see the stacks in *.err")
            for child in living:
                if child.process is not None:
                    _send(child.process, signal.SIGUSR1)
            await asyncio.sleep(1)
        for task in late:
            task.cancel()

    async def prove(self) -> Proof:
        """See whether everything holds."""
        proof = self.proof
        async with self.bus() as bus:
            log = (await bus.conversation(PLAIN)).log
            async with log.read("cv.00.>") as found:
                records = [record async for record in found if address_of(record.subject).kind != "live"]
            await check_parties(bus, self.parties, proof)
        attempts = attempts_of(path for role in RECORDED for path in all_lines(self.evidence, role))
        made = operations(attempts, records, proof)
        marks = [record for record in records if ".producer." in record.subject]
        theirs = {record.seq: record for record in records if not record.subject.endswith(f".stream.{END}")}
        for mark in marks:
            del theirs[mark.seq]
        check_records(made, theirs, proof)
        check_producers([one for one in records if one.subject.endswith(f".stream.{COUNTED}")], marks, proof)
        # What was on its way when its writer was dismissed may come behind the end.
        end = max((record.seq for record in records if record.subject.endswith(f".stream.{END}")), default=0)
        told = [record for record in records if record.seq <= end]
        followed = [record for record in told if any(matches(pattern, record.subject) for pattern in FOLLOWED)]
        check_followers(all_lines(self.evidence, "follow"), followed, proof)
        reads = reads_of(all_lines(self.evidence, "look"))
        proof.counts["reads"] = len(reads)
        check_order([*made, *reads], self.evidence / "history.jsonl", proof)
        return proof


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    # Not by the process object: that looks for an exit code first, and takes it from asyncio, which waits for it.
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)


def report(chaos: Chaos, proof: Proof, took_s: float) -> None:
    """What was done, what came of it, and whether it holds."""
    given, counts = chaos.given, proof.counts
    print(f"chaos     seed {given.seed}, {given.nodes} node(s), {took_s:.0f} s, {len(chaos.parties)} parties")
    print(f"harm      {as_lines(chaos.done)}")
    print(f"log       {as_lines(counts)}")
    print(f"proof     {'all of it holds' if not proof.faults else str(counts['faults']) + ' faults'}")
    for fault in proof.faults:
        print(f"  fault   {fault}")


async def run(given: argparse.Namespace, evidence: Path) -> Proof:
    """A run, its proof and its report."""
    began = time.monotonic()
    async with cluster(given.nodes, evidence) as servers:
        chance = Random(given.seed)
        chaos = Chaos(servers, evidence, chance, given)
        await chaos.all_of_it()
        proof = await chaos.prove()
    report(chaos, proof, time.monotonic() - began)
    return proof


def main() -> int:
    """The exit code: 0, or 1 when something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--keep", metavar="DIR", help="Where the evidence stays. Default: it goes when all holds.")
    given = parser.parse_args()
    evidence = Path(given.keep or tempfile.mkdtemp(prefix="convive-chaos-"))
    evidence.mkdir(exist_ok=True)
    proof = asyncio.run(run(given, evidence))
    if proof.faults or given.keep:
        print(f"evidence  {evidence}")
    else:
        shutil.rmtree(evidence)
    return 1 if proof.faults else 0


if __name__ == "__main__":
    sys.exit(main())
