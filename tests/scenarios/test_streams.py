"""`convive append`, `read`, `streams` and `trim`, as they are used in pipes."""

import json
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from subprocess import PIPE
from typing import TYPE_CHECKING

import anyio
import pytest

from tests.scenarios.screens import terminal

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio


@dataclass(frozen=True)
class Pipe:
    """What a shell command has done."""

    code: int
    out: bytes
    err: str

    @property
    def rows(self) -> list[Mapping[str, object]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def pipes(person: "Person", command: str, given: bytes = b"") -> Pipe:
    """Run a shell command in which `convive` stands for the program under test."""
    text = f"set -o pipefail; convive() {{ '{person.program}' \"$@\"; }}; {command}"
    with anyio.fail_after(60):
        done = await anyio.run_process(
            ["bash", "-c", text], input=given, check=False, cwd=person.folder, env=person.env()
        )
    assert b"Traceback" not in done.stderr
    return Pipe(done.returncode, done.stdout, done.stderr.decode())


async def test_lines_go_in_and_come_out(person: "Person") -> None:
    done = await pipes(person, "seq 20000 | convive append numbers && convive read numbers")
    assert done.code == 0
    assert done.out == b"".join(b"%d\n" % number for number in range(1, 20_001))
    assert done.err == "20,000 records appended to numbers.\n"
    done = await pipes(person, "convive read numbers -n 2 && convive streams")
    assert done.out.split() == [b"19999", b"20000", b"numbers", b"20,000"]


async def test_bytes_come_out_as_they_went_in(person: "Person") -> None:
    given = b"\xff\x00 raw\r\n\n  spaces \nno end"
    done = await pipes(person, "convive append raw && convive read raw", given)
    assert done.out == given + b"\n"
    done = await pipes(person, "convive read raw --json")
    assert [row.get("base64", row.get("body")) for row in done.rows] == ["/wAgcmF3DQ==", "", "  spaces ", "no end"]


async def test_a_reader_of_the_output_that_leaves_early_leaves_quietly(person: "Person") -> None:
    done = await pipes(person, "seq 30000 | convive append numbers 2>&- && convive read numbers | head -1")
    assert (done.out, done.err) == (b"1\n", "")
    done = await pipes(person, "convive read numbers --follow 2>&- | head -2")
    assert done.out == b"1\n2\n"


async def test_headers_and_json_lines(person: "Person") -> None:
    done = await pipes(
        person,
        "convive append notes --json --header Kind=note --header 'X-Sum=a=b' && convive read notes --json",
        b'{"a": [1]}\n"text"\n',
    )
    assert [row["body"] for row in done.rows] == [{"a": [1]}, "text"]
    assert [row["headers"] for row in done.rows] == [{"Kind": "note", "X-Sum": "a=b"}] * 2
    positions = [int(str(row["position"])) for row in done.rows]
    done = await pipes(person, f"convive read notes -s {positions[1]} --json")
    assert [row["body"] for row in done.rows] == ["text"]
    done = await pipes(person, f"convive read notes -s 0 --until {positions[0]}; convive read notes --count 1")
    assert done.out == b'{"a": [1]}\n' * 2


async def test_a_line_that_cannot_be_a_record_is_named_and_those_before_it_are_stored(person: "Person") -> None:
    done = await pipes(person, "convive append notes --json", b"1\n2\nnope\n4\n")
    assert done.code == 1
    assert done.err.splitlines()[0] == "2 records appended to notes."
    assert "line 3 of standard input: it is not JSON" in done.err
    done = await pipes(person, "head -c 3000000 /dev/zero | tr '\\0' x | convive append notes")
    assert done.code == 1
    assert "line 1 of standard input" in done.err
    done = await pipes(person, "convive read notes")
    assert done.out == b"1\n2\n"


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("echo x | convive append Big.Name", "Did you mean 'big-name'?"),
        ("echo x | convive append notes --header oops", "expected NAME=VALUE"),
        ("echo x | convive append notes --header Nats-Msg-Id=1", "not a name for a header of your own"),
        ("echo x | convive append notes --token ada", "it is not fenced"),
        ("echo x | convive append notes --producer 'a b'", "is not the id of a producer"),
        ("convive append notes <&-", "standard input is closed"),
        ("convive read notes", "nothing is kept in"),
        ("echo x | convive append notes 2>&-; convive read notes -s 5000", "has no position 5000 yet: its log ends at"),
        ("echo x | convive append notes 2>&-; convive read notes -s 5000 -f", "or with --clamp at the nearest"),
        ("seq 5 | convive append notes 2>&-; convive trim notes 3 2>&-; convive read notes -s 2", "begin with -s 4"),
        ("echo x | convive append notes 2>&-; convive trim notes 5000", "has no position 5000 yet: its log ends at"),
        ("echo x | convive append notes 2>&-; convive read notes -s 1 -n 1", "begin with --start"),
        ("echo x | convive append notes 2>&-; convive read notes -f --count 1", "--follow does not end"),
    ],
)
async def test_a_mistake_is_told_in_one_line_without_a_traceback(
    person: "Person", command: str, complaint: str
) -> None:
    done = await pipes(person, command)
    assert done.code != 0
    assert complaint in " ".join(done.err.replace("│", " ").split())
    assert done.out == b""


async def test_who_reads_a_stream_that_is_not_there_is_told_so(person: "Person") -> None:
    await pipes(person, "echo x | convive append notes")
    done = await pipes(person, "convive read notse")
    assert (done.code, done.out) == (0, b"")
    assert done.err == "notse has no records. `convive streams` lists those that have.\n"
    assert (await pipes(person, "convive read notes")).err == ""


async def test_what_is_trimmed_is_forgotten(person: "Person") -> None:
    await pipes(person, "seq 10 | convive append notes")
    done = await pipes(person, "convive read notes --json")
    positions = [int(str(row["position"])) for row in done.rows]
    done = await pipes(person, f"convive trim notes {positions[6]}")
    assert done.err == "7 records of notes forgotten.\n"
    assert (await pipes(person, "convive read notes")).out == b"8\n9\n10\n"
    done = await pipes(person, f"convive read notes -s {positions[2]}")
    assert "was trimmed" in done.err
    done = await pipes(person, f"convive read notes -s {positions[2]} --clamp")
    assert done.out == b"8\n9\n10\n"


async def test_a_follower_says_when_it_is_up_to_date_and_where_to_go_on(person: "Person") -> None:
    await pipes(person, "seq 3 | convive append notes")
    async with person.starts("read", "notes", "--follow") as running:
        await running.err.until("Up to date")
        await running.out.until("3\n")
        await pipes(person, "echo more | convive append notes")
        await running.out.until("more\n")
        running.send(signal.SIGINT)
        done = await running.ends()
    assert done.code == 130
    assert done.lines == ["1", "2", "3", "more"]
    command = done.err.split("Go on: ")[1].strip()
    await pipes(person, "echo later | convive append notes")
    async with person.starts(*command.split()[1:]) as running:
        assert await running.out.until("later\n") == "later\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_who_is_interrupted_while_typing_has_appended_what_was_typed(
    person: "Person", number: signal.Signals, code: int
) -> None:
    async with person.starts("read", "notes", "--follow") as reader:
        await reader.err.until("Up to date")
        command = [str(person.program), "append", "notes"]
        with anyio.fail_after(60):
            async with await anyio.open_process(
                command, cwd=person.folder, env=person.env(), stdin=PIPE, stdout=PIPE, stderr=PIPE
            ) as process:
                assert process.stdin is not None
                await process.stdin.send(b"one\ntwo\nhalf a li")
                await reader.out.until("two\n")
                process.send_signal(number)
                assert await process.wait() == code
        assert reader.out.text == "one\ntwo\n"


async def test_who_types_records_is_told_how_to_end(person: "Person", door: "Door") -> None:
    async with terminal(person, "append", "notes", door=door) as typing:
        await typing.until("Each line is a record; Ctrl-D ends.")
        typing.types("figs\nsoup\n\x04")
        assert await typing.ends() == 0
    assert "2 records appended to notes." in typing.screen.text


async def test_lines_of_a_named_producer_are_stored_once_although_it_is_killed_over_and_over(person: "Person") -> None:
    lines = [f"line {number}\n".encode() for number in range(30_000)]
    for stop, seen in ((8_000, 800), (20_000, 9_000)):
        command = [str(person.program), "append", "lines", "--producer", "p"]
        async with await anyio.open_process(
            command, cwd=person.folder, env=person.env(), stdin=PIPE, stdout=PIPE, stderr=PIPE
        ) as process:
            assert process.stdin is not None
            await process.stdin.send(b"".join(lines[:stop]))
            async with person.starts("read", "lines", "--follow") as reader:
                await reader.out.until("\n", seen)  # some of it is stored, some is on its way
                process.kill()
                await process.wait()
    done = await pipes(person, "convive append lines --producer p 2>&- && convive read lines", b"".join(lines))
    assert done.out == b"".join(lines)
