"""Export, import, fork and diff as a person meets them."""

from datetime import UTC, datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import anyio
import pytest

from convive.bus import Chair, RunContext, SeatName, open_bus
from convive.scenarios import Party, PartyError
from convive.scenarios.cli._copying import Changes, _new_file, changed  # pyright: ignore[reportPrivateUsage]
from tests.scenarios.conftest import CONVIVE

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

pytestmark = pytest.mark.anyio

HELD = ("run", "dinner-party", "--model", "scripted/party", "--turns", "3", "--plain", "--conversation")


async def test_a_party_is_carried_to_another_store_and_replayed_there(person: "Person") -> None:
    held = await person.does(*HELD, "eve")
    done = await person.does("export", "eve", "eve.jsonl")
    assert (done.code, done.out) == (0, "")
    assert "convive import eve.jsonl" in done.err
    assert (await person.does("export", "eve")).out == (person.folder / "eve.jsonl").read_text()
    brought = await person.does("import", "eve.jsonl", "--data", "elsewhere")
    assert brought.code == 0, brought.err
    assert (await person.does("replay", "eve", "--plain", "--data", "elsewhere")).out == held.out
    again = await person.does("import", "eve.jsonl", "--data", "elsewhere")
    assert again.code == 0  # all of it was there
    there_already = await person.does("export", "eve", "eve.jsonl")
    assert there_already.code == 1
    assert "File exists. Nothing was written." in there_already.err


async def test_a_fork_goes_another_way_and_diff_shows_where(person: "Person") -> None:
    held = await person.does(*HELD, "eve")
    forked = await person.does(
        "fork", "eve", "--at", "turn:2", "--as", "eva", "--guest", "galileo", "--without", "basho", "--turns", "4"
    )
    assert forked.code == 0, forked.err
    assert "convive run --conversation eva" in forked.err
    went_on = await person.does("run", "--conversation", "eva", "--plain", "--model", "scripted/party")
    assert went_on.code == 0, went_on.err
    assert went_on.lines[1:3] == held.lines[1:3]
    assert any("Galileo" in line or "galileo" in line for line in went_on.lines[3:])
    remembered = await person.does("memory", "eva", "--seat", "galileo", "--json")
    assert "intention" in [row["kind"] for row in remembered.rows]
    (row,) = (await person.does("diff", "eve", "eva", "--json")).rows
    assert (row["equal"], row["opened"], row["turn"]) == (False, ["setting"], 2)
    differ = await person.does("diff", "eve", "eva")
    assert differ.code == 1
    assert "to the end of turn 2" in differ.out
    same = await person.does("diff", "eve", "eve")
    assert (same.code, same.out.splitlines()[-1]) == (0, "no difference")
    assert (await person.does("replay", "eve", "--plain")).out == held.out


async def test_a_party_is_redriven_with_the_answers_it_had(person: "Person") -> None:
    await person.does(*HELD, "eve")
    done = await person.does("redrive", "eve")
    assert (done.code, done.out) == (0, "5 turns came out the same, with 8 recorded answers\n"), done.err
    part = await person.does("redrive", "eve", "--to", "turn:2", "--json")
    assert part.rows == [{"turns": 2, "copied": 0, "answers": 3, "unchecked": 0, "deviation": None}]
    # Under another topic the host would have been asked something else from the first word on.
    await person.does("fork", "eve", "--as", "eva", "--topic", "Salt")
    differs = await person.does("redrive", "eva")
    assert differs.code == 1
    assert "turn 1, record " in differs.out
    assert "in the turn of host, its model is asked something else" in differs.out
    nobody = await person.does("redrive", "nobody")
    assert (nobody.code, nobody.err.startswith("convive: there is no conversation")) == (1, True)


async def test_what_cannot_be_copied_is_refused_in_a_sentence(person: "Person") -> None:
    await person.does(*HELD, "eve")
    await person.does("export", "eve", "eve.jsonl")
    torn = person.folder / "torn.jsonl"
    torn.write_bytes((person.folder / "eve.jsonl").read_bytes()[:2_000])
    for command, why in [
        (("import", "torn.jsonl"), "torn.jsonl, line 6: the line is torn"),
        (("import", "nothing.jsonl"), "nothing.jsonl cannot be read: No such file"),
        (("export", "nobody"), "there is no conversation 'nobody'"),
        (("fork", "eve", "--as", "eve"), "there is another conversation 'eve'"),
        (("fork", "eve", "--at", "1999-01-01"), "nothing of eve is at or before 1999-01-01"),
        (("fork", "eve", "--at", "99999"), "eve has not come to 99999 yet: it is at"),
        (("fork", "eve", "--at", "turn:9"), "eve has not come to turn:9 yet: it is at"),
        (("export", "eve", "--to", "99999"), "Nothing was done."),
        (("redrive", "eve", "--to", "turn:9"), "in turn 5. Nothing was done."),
        (("replay", "eve", "--from", "99999"), "nothing of eve is at or behind 99999."),
        (("replay", "eve", "--from", "turn:3", "--to", "2"), "behind turn:3 and at or before 2."),
        (("fork", "eve", "--without", "nemo"), "nobody of that name comes"),
        (("fork", "eve", "--guest", "nemo"), "there is no guest 'nemo'"),
        (("fork", "eve", "--model", "ada=nonsense"), "nonsense"),
        (("diff", "eve", "nobody"), "there is no conversation 'nobody'"),
    ]:
        refused = await person.does(*command)
        assert refused.code == 1, command
        assert why in refused.err
        assert "Traceback" not in refused.err
    listed = await person.does("ls", "--json")
    assert [row["conversation"] for row in listed.rows] == ["eve"]


async def test_a_conversation_that_is_no_party_is_forked_but_not_changed(person: "Person") -> None:
    async with open_bus(data=person.folder / ".convive") as bus:
        conversation, run = await bus.conversation("plain"), RunContext.root()
        await conversation.open(run, "figs", [Chair(seat=SeatName("ada"))])
    forked = await person.does("fork", "plain", "--as", "copy")
    assert (forked.code, forked.err) == (0, "copy begins as plain was.\n")
    assert (await person.does("diff", "plain", "copy")).code == 0
    changed = await person.does("fork", "plain", "--topic", "Salt")
    assert changed.complaint == "convive: plain is no party of `convive run`: it can be forked, but not changed."


async def test_an_export_that_finds_no_room_says_so_and_leaves_no_file(person: "Person") -> None:
    await person.does(*HELD, "eve")
    command = ["sh", "-c", f"{CONVIVE} export eve > /dev/full"]
    with anyio.fail_after(40):
        done = await anyio.run_process(command, cwd=person.folder, env=person.env(), check=False)
    assert done.returncode == 1
    why = "No space left on device. What came out is no whole export."
    assert done.stderr.decode() == f"convive: standard output cannot be written: {why}\n"
    parts = person.folder / "parts.jsonl"
    with pytest.raises(OSError, match="no room"), _new_file(parts) as file:  # noqa: PT012 - it is about leaving it
        file.write(b"a part")
        raise OSError("no room")
    assert not parts.exists()


async def test_an_archive_may_come_through_a_pipe(person: "Person") -> None:
    await person.does(*HELD, "eve")
    await person.does("export", "eve", "eve.jsonl")
    command = ["bash", "-c", f"{CONVIVE} import <(cat eve.jsonl) --as eva && {CONVIVE} import - --as evi < eve.jsonl"]
    with anyio.fail_after(40):
        done = await anyio.run_process(command, cwd=person.folder, env=person.env(), check=False)
    assert (done.returncode, done.stderr.count(b"records are on the bus")) == (0, 2), done.stderr
    assert b"eva is a fork of eve: an end is left out, so it can go on from there." in done.stderr
    assert (await person.does("diff", "eva", "evi")).out.endswith("no difference\n")


async def test_a_copy_is_listed_and_replayed_by_the_times_at_which_it_happened(person: "Person") -> None:
    await person.does(*HELD, "eve")
    await person.does("export", "eve", "eve.jsonl")
    await person.does("import", "eve.jsonl", "--data", "elsewhere")
    (here,) = (await person.does("ls", "--json")).rows
    (there,) = (await person.does("ls", "--json", "--data", "elsewhere")).rows
    assert there == here
    rows = (await person.does("replay", "eve", "--json")).rows
    copied = (await person.does("replay", "eve", "--json", "--data", "elsewhere")).rows
    assert [row["time_s"] for row in copied] == [row["time_s"] for row in rows]
    _, before_s, after_s = max((after - before, before, after) for before, after in pairwise(r["time_s"] for r in rows))
    when = datetime.fromtimestamp((before_s + after_s) / 2, UTC).isoformat()
    part = (await person.does("replay", "eve", "--json", "--from", when, "--data", "elsewhere")).rows
    assert part == [row for row in copied if row["time_s"] >= after_s]


def test_what_is_changed_in_a_fork() -> None:
    party = Party()
    other = changed(party, Changes("Salt", ("scripted/party", "ada=anthropic/claude-x"), ("galileo",), ("basho",), 7))
    assert (other.topic, other.turns, other.model) == ("Salt", 7, "scripted/party")
    assert [guest.seat for guest in other.guests] == ["ada", "diogenes", "shih", "galileo"]
    assert [guest.model for guest in other.guests] == ["anthropic/claude-x", None, None, None]
    assert changed(party, Changes()) == party
    with pytest.raises(PartyError, match="nobody of that name"):
        changed(party, Changes(models=("nemo=scripted/party",)))
    with pytest.raises(PartyError):
        changed(party, Changes(without=tuple(guest.seat for guest in party.guests)))
