"""Parties: who comes, what is asked for on the command line, and what stands on the bus."""

from typing import TYPE_CHECKING

import pytest

from convive.agents import FunctionSeat, Turn, default_models
from convive.bus import HOST
from convive.scenarios import Guest, Party, PartyError
from convive.scenarios.cli._hosting import Wishes, wished_party
from convive.scenarios.cli._play import participants
from convive.scenarios.party._guests import GUESTS
from convive.scenarios.party._party import choose_guests, invite
from convive.scenarios.party._party_file import party_from

if TYPE_CHECKING:
    from tests.scenarios.conftest import Person

ZOE = Guest(seat="zoe", name="Zoe", about="a baker")


def seats(guests: tuple[Guest, ...]) -> list[str]:
    return [guest.seat for guest in guests]


def test_a_party_that_nobody_described_can_be_held() -> None:
    party = Party()
    assert seats(party.guests) == list(GUESTS)[:4]
    assert party.turns >= 1
    assert party.plan().turns == party.turns
    assert party.topic


def test_a_seat_that_is_known_brings_its_persona_and_what_is_given_goes_before_it() -> None:
    ada = Guest.model_validate({"seat": "ada", "about": "a retired diver"})
    assert (ada.name, ada.about, ada.samples) == ("Ada", "a retired diver", GUESTS["ada"].samples)


def test_a_seat_that_is_not_known_is_named_after_itself() -> None:
    assert Guest.model_validate({"seat": "old-tom", "about": "a sailor"}).name == "Old Tom"


def test_what_stands_on_the_bus_holds_no_intention_and_makes_the_same_party() -> None:
    party = Party(guests=(*invite(["ada", "vane"]), Guest(seat="zoe", name="Zoe", about="a baker", intention="SECRET")))
    public = party.public()
    assert "SECRET" not in str(public)
    assert GUESTS["ada"].intention not in str(public)
    again = party_from(public, "bus")
    assert again.public() == public
    assert seats(again.guests) == ["ada", "vane", "zoe"]


@pytest.mark.parametrize(
    ("wish", "expected"),
    [
        ("1", ["zoe"]),
        ("3", ["zoe", "ada", "diogenes"]),
        ("9", ["zoe", *GUESTS]),
        ("basho,ada", ["basho", "ada"]),
        (" Ada , zoe,", ["ada", "zoe"]),
        ("ada,ada", ["ada"]),
    ],
)
def test_guests_are_chosen_by_number_or_by_name_from_the_party_first(wish: str, expected: list[str]) -> None:
    assert seats(choose_guests(wish, [ZOE])) == expected


def test_a_guest_of_the_party_keeps_its_persona_when_it_is_chosen_by_name() -> None:
    own = Guest(seat="ada", name="Ada", about="a namesake")
    assert choose_guests("ada", [own]) == (own,)


@pytest.mark.parametrize("wish", ["0", "10", "99999999999999999999", "", ",", "nobody", "ada,nobody", "-1", "1.5", "²"])
def test_guests_who_cannot_come_are_told_of(wish: str) -> None:
    with pytest.raises(PartyError, match=r"guest"):
        choose_guests(wish, [ZOE])


def test_options_go_before_the_file_and_leave_the_rest_of_it() -> None:
    party = wished_party(Wishes(turns=3, topic="Rain", policy="round-robin", seed=7, model="scripted/party"))
    assert (party.turns, party.topic, party.policy, party.seed, party.model) == (
        3,
        "Rain",
        "round-robin",
        7,
        "scripted/party",
    )
    assert party.host == Party().host


def test_a_remote_guest_must_be_one_who_comes() -> None:
    party = wished_party(Wishes(guests="ada,vane", remote=("vane",)))
    assert [guest.remote for guest in party.guests] == [False, True]
    with pytest.raises(PartyError, match=r"--remote zoe: nobody of that name comes\. Guests: ada, vane"):
        wished_party(Wishes(guests="ada,vane", remote=("zoe",)))


@pytest.mark.parametrize(
    ("wishes", "complaint"),
    [
        (Wishes(turns=0), "`turns`: expected 1 or more, found 0"),
        (Wishes(turns=10_001), "`turns`: expected 10000 or less"),
        (Wishes(topic=""), "`topic`: expected some text"),
        (Wishes(topic="x" * 4_001), "`topic`: expected at most 4000 characters"),
        (Wishes(policy="chaos"), "`policy`: expected one of 'round-robin' or 'addressed', found 'chaos'"),
        (Wishes(target="tea"), "there is no scenario 'tea'"),
        (Wishes(target="tea.txt"), "there is no scenario 'tea.txt'"),
    ],
)
def test_wishes_that_cannot_be_met_say_which_and_what_was_expected(wishes: Wishes, complaint: str) -> None:
    with pytest.raises(PartyError) as error:
        wished_party(wishes)
    assert complaint in str(error.value)
    assert len(str(error.value)) < 250


async def speak(turn: Turn) -> str:
    return turn.seat


def test_a_guest_that_is_code_sits_nowhere_without_its_file() -> None:
    party = Party(guests=(Guest.model_validate({"seat": "echo", "participant": FunctionSeat(speak)}),))
    models = default_models()
    assert set(participants(party, models, "scripted/party")) == {HOST, "echo"}
    kept = Party.model_validate(party.public())
    with pytest.raises(PartyError, match="Echo is code from a Python file"):
        participants(kept, models, "scripted/party")


@pytest.mark.anyio
async def test_a_key_that_is_missing_is_told_before_the_party_is_opened(person: "Person") -> None:
    """Else the party would break off at that guest's turn, and going on with it as well."""
    guests = '[{seat = "amy", about = "a cook"}, {seat = "ivo", about = "a cook", model = "anthropic/claude-opus-5"}]'
    person.writes("party.toml", f'turns = 2\nmodel = "scripted/party"\nguests = {guests}\n')
    done = await person.does("run", "party.toml", "--conversation", "soup")
    assert done.code == 1
    assert "there is no key" in done.complaint
    assert "No conversations yet" in (await person.does("ls")).err
