"""The commands, each in a process of its own: a party is held, stopped, gone on with, watched and read again."""

import signal
from typing import TYPE_CHECKING

import anyio
import pytest

if TYPE_CHECKING:
    from tests.scenarios.conftest import Door, Person

pytestmark = pytest.mark.anyio

RUN = ("run", "table.py", "--conversation", "soup", "--plain")
COUNTED = ["amy 1", "bob 1", "amy 2", "bob 2"]


async def test_the_party_out_of_the_box_is_held_replayed_listed_and_remembered(person: "Person") -> None:
    """Two turns of canned lines; the replay is byte for byte what was printed."""
    held = await person.does("run", "dinner-party", "--model", "scripted/party", "--turns", "2", "--plain")
    assert held.code == 0, held.err
    assert held.lines[0].startswith("* What would you carry out of a burning house? At the table: Ada, ")
    assert held.lines[-1].startswith("* the end")
    assert held.err.startswith("dinner-party-")
    name = held.err.split()[0]
    assert f"convive replay {name}" in held.err
    assert (await person.does("replay", name, "--plain")).out == held.out
    (row,) = (await person.does("ls", "--json")).rows
    assert (row["conversation"], row["state"], row["turns"]) == (name, "over", 4)
    assert name in (await person.does("ls")).out
    remembered = await person.does("memory", name, "--seat", "ada", "--json")
    assert ("ada", "intention") in [(row["seat"], row["kind"]) for row in remembered.rows]
    assert "find money for your engine" in (await person.does("memory", name, "--seat", "ada")).out


async def test_an_interrupted_party_says_how_to_go_on_and_goes_on_there(table: "Person", door: "Door") -> None:
    door.shut("bob asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("bob asked")
        server = run.server
        run.send(signal.SIGINT)
        stopped = await run.ends()
    assert stopped.code == 130
    assert "Traceback" not in stopped.err
    assert "go on with:\n  convive run table.py --conversation soup" in stopped.err
    assert [line.partition(": ")[2] for line in stopped.lines[2:]] == ["amy 1"]
    assert not table.sees(server)
    door.open("bob asked")
    done = await table.does(*RUN, env=door.env)
    assert done.code == 0
    assert done.out.startswith(stopped.out)
    assert (await table.said("soup"))[1:-1] == COUNTED
    assert (await table.does("replay", "soup", "--plain")).out == done.out


async def test_a_party_that_is_over_is_shown_again_in_whole_and_in_part(table: "Person", door: "Door") -> None:
    held = await table.does(*RUN, env=door.env)
    again = await table.does(*RUN, env=door.env)
    assert (again.code, again.out) == (0, held.out)
    part = await table.does("replay", "soup", "--plain", "--from", "turn:2", "--to", "turn:3", "--speed", "1000")
    assert part.lines == ["Amy: amy 1", "Bob: bob 1"]
    # `convive replay soup | head -1`: the first line is all that is wanted, which is no error.
    shell = f"'{table.program}' replay soup --plain | head -n 1; exit ${{PIPESTATUS[0]}}"
    head = await anyio.run_process(["bash", "-c", shell], cwd=table.folder, env=table.env(), check=False)
    assert (head.returncode, head.stdout.decode(), head.stderr) == (0, f"{held.lines[0]}\n", b"")
    # Showing it needs nobody who sat there.
    alone = await table.does("run", "--conversation", "soup", "--plain")
    assert (alone.code, alone.out) == (0, held.out)


async def test_a_second_process_follows_all_of_it_and_ends_by_itself(table: "Person", door: "Door") -> None:
    door.shut("bob asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("bob asked")
        async with (
            table.starts("follow", "soup", "--plain") as follow,
            table.starts("follow", "soup", "--json") as rows,
        ):
            await follow.out.until("amy 1")
            await rows.out.until('"turn": 3')
            door.open("bob asked")
            seen, seen_rows, shown = await follow.ends(), await rows.ends(), await run.ends()
    assert [done.code for done in (seen, seen_rows, shown)] == [0, 0, 0]
    assert seen.out == shown.out
    assert [row["event"]["text"] for row in seen_rows.rows if row["event"]["type"] == "said"][1:-1] == COUNTED


async def test_a_follower_who_leaves_is_told_where_to_go_on(table: "Person", door: "Door") -> None:
    door.shut("bob asked")
    async with table.starts(*RUN, env=door.env) as run:
        await door.knocked("bob asked")
        async with table.starts("follow", "soup", "--plain") as follow:
            await follow.out.until("amy 1")
            follow.send(signal.SIGINT)
            left = await follow.ends()
        assert left.code == 130
        where = left.err.strip().rpartition(": ")[2].split()
        assert where[:4] == ["convive", "follow", "soup", "--from"]
        door.open("bob asked")
        rest = await table.does(*where[1:], "--plain")
        shown = await run.ends()
    assert left.out + rest.out == shown.out


async def test_what_somebody_says_from_beside_the_table_is_heard_by_the_guests(person: "Person", door: "Door") -> None:
    person.writes(
        "ears.py",
        """
import os
import anyio
from convive.agents import FunctionSeat
from convive.scenarios import Guest, Party

async def speak(turn):
    async with await anyio.connect_tcp("127.0.0.1", int(os.environ["DOOR"])) as stream:
        await stream.send(b"amy speaks")
        await stream.receive()
    return " and ".join(f"{line.seat} said {line.text!r}" for line in turn.heard if line.turn is None) or "So quiet."

amy = Guest(seat="amy", participant=FunctionSeat(speak))
party = Party(topic="soup", turns=2, model="scripted/party", guests=(amy,))
""",
    )
    door.shut("amy speaks")
    async with person.starts("run", "ears.py", "--conversation", "soup", "--plain", env=door.env) as run:
        await door.knocked("amy speaks")
        said = await person.does("say", "soup", "--as", "Aunt Eve", "More", "salt,\tplease!")
        assert (said.code, said.err) == (0, "Heard by everybody in soup.\n")
        await run.out.until("Aunt Eve (aside): More salt, please!\n")
        door.open("amy speaks")
        done = await run.ends()
    assert done.lines[3:5] == ["Amy: So quiet.", "Amy: aunt-eve said 'More salt, please!'"]


async def test_a_terminal_without_the_letters_shows_substitutes(table: "Person") -> None:
    env = {"PYTHONIOENCODING": "ascii"}
    run = ("run", "--topic", "Où est la crème?", "--turns", "1", "--model", "scripted/party", "--plain")
    done = await table.does(*run, env=env)
    assert done.code == 0
    assert done.lines[0].startswith("* O\\xf9 est la cr\\xe8me?")


async def test_a_server_in_the_foreground_says_where_it_is_and_ends_with_sigterm(person: "Person") -> None:
    async with person.starts("server", "--data", "store") as server:
        url = (await server.out.until("\n")).strip()
        assert url.startswith("nats://127.0.0.1:")
        assert (await person.does("ls", "--url", url)).code == 0
        found = await person.does("doctor", "--url", url, "--model", "scripted/party")
        assert (found.code, [line[:4] for line in found.lines]) == (0, ["ok  "] * 6)
        assert "stored and read back" in found.out
        child = server.server
        server.send(signal.SIGTERM)
        done = await server.ends()
    assert done.code == 143
    assert "Traceback" not in done.err
    assert not person.sees(child)


async def test_a_doctor_leaves_nothing_behind_and_says_what_is_wrong(person: "Person") -> None:
    found = await person.does("doctor", "--model", "nonsense")
    assert found.code == 1
    assert found.lines[-1].startswith("NOT model: 'nonsense' does not say which provider")
    assert "1 of these needs attention" in found.complaint
    assert list(person.folder.iterdir()) == []


async def test_a_traceback_is_shown_to_who_asks_for_it(person: "Person") -> None:
    person.writes("bad.py", "party = 1 / 0\n")
    assert "ZeroDivisionError" in (await person.does("run", "bad.py")).complaint
    debugged = await person.does("run", "bad.py", "--debug")
    assert debugged.code == 1
    assert 'bad.py", line 1, in <module>' in debugged.err


async def test_a_guest_from_elsewhere_takes_a_seat_that_nobody_was_invited_to(table: "Person", door: "Door") -> None:
    """`sit` with another name than those invited: they sit down, and their turn comes."""
    door.shut("amy asked")
    async with table.starts(*RUN, env={**door.env, "TURNS": "3"}) as run:
        await door.knocked("amy asked")
        table.writes("late.py", "async def zoe(turn):\n    return 'Am I late?'\n")
        async with table.starts("sit", "soup", "--as", "zoe", "--agent", "late:zoe", "--about", "a baker") as zoe:
            await run.out.until("* Zoe sits down (a baker)")
            door.open("amy asked")
            done = await run.ends()
            assert (await zoe.ends()).code == 0
    assert "Zoe: Am I late?" in done.lines
