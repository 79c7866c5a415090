"""Who speaks next."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from convive.agents import POLICIES, Policy, addressed_next, round_robin
from convive.bus import (
    HOST,
    Chair,
    Floor,
    Granted,
    Interjected,
    Joined,
    Left,
    Opened,
    Revoked,
    Said,
    SeatName,
    fold_floor,
)
from convive.bus.testing import Records, run_number

ADA, BOB, CLEO = SeatName("ada"), SeatName("bob"), SeatName("cleo")


class Table:
    """A conversation led by a policy, folded as it goes."""

    def __init__(self, *seats: str, policy: Policy = round_robin) -> None:
        self.records = Records()
        self.policy = policy
        chairs = tuple(Chair(seat=SeatName(seat)) for seat in seats)
        self.floor = fold_floor(Floor(), self.records.link(HOST, Opened(run_id=run_number(0), topic="", chairs=chairs)))

    def turn(self, text: str = "hm", seat: SeatName | None = None) -> SeatName:
        """One turn, granted by the policy unless a seat is given."""
        chosen = seat or self.policy(self.floor)
        assert chosen is not None
        number, run = self.floor.turn + 1, run_number(self.floor.turn + 1)
        grant = Granted(link=self.floor.links, turn=number, seat=chosen, run_id=run, deadline_s=0)
        self.floor = fold_floor(self.floor, self.records.link(HOST, grant))
        said = Said(link=self.floor.links, turn=number, run_id=run, text=text)
        self.floor = fold_floor(self.floor, self.records.link(chosen, said))
        assert self.floor.damage == ()
        return chosen

    def aside(self, seat: str, event: Joined | Left | Interjected) -> None:
        self.floor = fold_floor(self.floor, self.records.aside(seat, event))


def test_round_robin_goes_round_in_the_order_of_the_seats() -> None:
    table = Table("ada", "bob", "cleo")
    assert [table.turn() for _ in range(7)] == [ADA, BOB, CLEO, ADA, BOB, CLEO, ADA]


def test_the_host_is_no_guest() -> None:
    table = Table("host", "ada")
    table.turn(seat=HOST)
    assert [table.turn(), table.turn()] == [ADA, ADA]


def test_without_guests_nobody_is_next() -> None:
    for policy in POLICIES.values():
        assert policy(Table().floor) is None
        assert policy(Table("host").floor) is None
        assert policy(Floor()) is None


def test_who_joins_late_is_next_and_who_left_is_skipped() -> None:
    table = Table("ada", "bob")
    table.turn()
    table.aside("cleo", Joined())
    assert table.turn() == BOB
    assert table.turn() == CLEO
    table.aside("ada", Left())
    assert [table.turn(), table.turn()] == [BOB, CLEO]


def test_who_is_addressed_by_name_speaks_next() -> None:
    table = Table("ada", "bob", "cleo", policy=addressed_next)
    assert table.turn("What do you say, Cleo?") == ADA
    assert table.turn("I pass this on.") == CLEO
    assert table.turn() == BOB


def test_the_first_name_counts_and_ones_own_does_not() -> None:
    table = Table("ada", "bob", "cleo", policy=addressed_next)
    table.turn("Ada here: Cleo and Bob, go on.", seat=ADA)
    assert table.policy(table.floor) == CLEO


def test_an_interjection_can_address_a_guest() -> None:
    table = Table("ada", "bob", "cleo", policy=addressed_next)
    table.turn()
    table.aside("guest-of-honour", Interjected(text="cleo, you next!"))
    assert table.policy(table.floor) == CLEO


def test_a_name_within_another_word_addresses_nobody() -> None:
    table = Table("al", "bob", "mary-ann", policy=addressed_next)
    table.turn("Also, bobbing for apples is almost allowed.", seat=SeatName("mary-ann"))
    assert table.policy(table.floor) == SeatName("al")
    table.turn("Mary Ann, or mary-ann?", seat=BOB)
    assert table.policy(table.floor) == SeatName("mary-ann")


def test_two_who_name_each_other_silence_nobody() -> None:
    table = Table("ada", "bob", "cleo", policy=addressed_next)
    spoke = Counter(table.turn("Bob?" if table.floor.turn % 2 == 0 else "Ada?") for _ in range(30))
    assert spoke[CLEO] >= 3


@given(st.lists(st.sampled_from(["hm", "Ada", "Bob!", "cleo?", "Ada, Bob, Cleo", ""]), max_size=40))
def test_whatever_is_said_nobody_waits_longer_than_three_rounds(texts: list[str]) -> None:
    table = Table("ada", "bob", "cleo", policy=addressed_next)
    last = dict.fromkeys((ADA, BOB, CLEO), 0)
    for number, text in enumerate(texts, 1):
        last[table.turn(text)] = number
        assert all(number - turn <= 9 for turn in last.values())


@given(st.integers(1, 6), st.integers(0, 30))
def test_round_robin_is_fair(guests: int, turns: int) -> None:
    table = Table(*(f"s{number}" for number in range(guests)))
    spoke = Counter(table.turn() for _ in range(turns))
    counts = [spoke[SeatName(f"s{number}")] for number in range(guests)]
    assert max(counts) - min(counts) <= 1


def test_who_was_named_and_does_not_answer_is_named_only_once() -> None:
    table = Table("ada", "bob", "cleo", policy=addressed_next)
    table.turn("Cleo, what do you say?", seat=ADA)
    chosen: list[SeatName | None] = []
    for _ in range(3):
        seat = addressed_next(table.floor)
        assert seat is not None
        chosen.append(seat)
        run = run_number(table.floor.turn + 1)
        grant = Granted(link=table.floor.links, turn=table.floor.turn + 1, seat=seat, run_id=run, deadline_s=0)
        table.floor = fold_floor(table.floor, table.records.link(HOST, grant))
        revoked = Revoked(link=table.floor.links, turn=table.floor.turn, run_id=run)
        table.floor = fold_floor(table.floor, table.records.link(HOST, revoked))
    assert chosen == [CLEO, BOB, ADA]
    assert table.floor.damage == ()


def test_a_guest_is_named_by_the_display_name_by_its_last_word_and_by_the_seat() -> None:
    chairs = (Chair(seat=ADA), Chair(seat=BOB), Chair(seat=SeatName("ivo"), name="Professor Ivanóv"))
    for text in ("Professor Ivanóv, you?", "And you, ivanóv?", "Ask IVO."):
        records = Records()
        opened = Opened(run_id=run_number(0), topic="", chairs=chairs)
        floor = fold_floor(Floor(), records.link(HOST, opened))
        floor = fold_floor(floor, records.aside("mara", Interjected(text=text)))
        assert addressed_next(floor) == "ivo", text


def test_a_name_of_blanks_harms_nobody() -> None:
    records = Records()
    opened = Opened(run_id=run_number(0), topic="", chairs=(Chair(seat=ADA, name=" "), Chair(seat=BOB)))
    floor = fold_floor(Floor(), records.link(HOST, opened))
    assert addressed_next(fold_floor(floor, records.aside("mara", Interjected(text="Bob or Ada?")))) == BOB
