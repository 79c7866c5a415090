"""What a seat knows in its turn, and how much of it an agent is shown."""

from hypothesis import given
from hypothesis import strategies as st

from convive.agents import FirstOf, first_seen

INDEX = st.one_of(st.none(), st.integers(-12, 12))


@given(items=st.lists(st.integers(), max_size=8), more=st.lists(st.integers(), max_size=3), start=INDEX, stop=INDEX)
def test_a_view_reads_as_the_list_did_when_it_was_made(
    items: list[int], more: list[int], start: int | None, stop: int | None
) -> None:
    growing = list(items)
    view = FirstOf(growing, len(growing))
    growing += more
    assert list(view) == items
    assert len(view) == len(items)
    assert view[start:stop] == items[start:stop]
    assert [view[place] for place in range(-len(items), len(items))] == [*items, *items]


@given(heard=st.integers(0, 5_000), lines=st.integers(1, 500))
def test_an_agent_sees_at_least_so_many_lines_and_at_most_half_as_many_again(heard: int, lines: int) -> None:
    seen = heard - first_seen(heard, lines)
    assert min(heard, lines) <= seen <= lines + max(1, lines // 2)


def test_what_an_agent_sees_keeps_its_beginning_for_a_while() -> None:
    assert {first_seen(heard, 400) for heard in range(600)} == {0}
    assert {first_seen(heard, 400) for heard in range(600, 800)} == {200}
