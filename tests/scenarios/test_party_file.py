"""Parties from a user's own file: a mistake names the file, the key and what was expected."""

from pathlib import Path

import pytest

from convive.scenarios import PartyError, load_party

GOOD = """
topic = "What is bread for?"
host = "Martha"
policy = "round-robin"
turns = 6
turn_s = 30
seed = 7
model = "scripted/party"

[[guests]]
seat = "zoe"
about = "a baker who is up at three"
intention = "sell the last loaf"
model = "local/smollm2-135m"

[[guests]]
seat = "ada"
"""

MISTAKES = {
    "topic = 3": "`topic`: expected text in quotes, found 3",
    'turns = "many"': "`turns`: expected a whole number, found 'many'",
    "turns = 1.5": "`turns`: expected a whole number, found 1.5",
    "turns = 0": "`turns`: expected 1 or more, found 0",
    "turns = 99999999": "`turns`: expected 10000 or less, found 99999999",
    "turn_s = -1": "`turn_s`: expected more than 0, found -1",
    "turn_s = nan": "`turn_s`: expected 86400 or less, found nan",
    'policy = "chaos"': "`policy`: expected one of 'round-robin' or 'addressed', found 'chaos'",
    "model = 3": "`model`: expected text in quotes, found 3",
    'host = ""': "`host`: expected some text, found ''",
    'guets = ["ada"]': "unknown key `guets`; did you mean `guests`?",
    "zzz = 1": "unknown key `zzz`; known keys: topic, guests, host, policy, turns, turn_s, answer_s, model, seed",
    'guests = "ada"': "`guests`: expected a list, found 'ada'",
    "guests = []": "`guests`: expected at least 1 of them, found []",
    'guests = ["ada", 3]': "`guests[2]`: expected a guest: a name in quotes, or a table with `seat` and",
    'guests = ["nobody"]': "`guests[1].about` is missing: say in a few words who this guest is (known without",
    'guests = [{about="x"}]': "`guests[1].seat` is missing",
    'guests = [{seat="zoe", about="x", modle="y"}]': "unknown key `guests[1].modle`; did you mean `model`?",
    'guests = [{seat="zoe", about="x", participant="y"}]': "`guests[1].participant`: only a party in Python can",
    'guests = [{seat="zoe", about=""}]': "`guests[1].about`: expected some text, found ''",
    'guests = [{seat="zoe", about="x", remote="perhaps"}]': "`guests[1].remote`: expected true or false",
    'guests = [{seat="zoe", about="x", samples="y"}]': "`guests[1].samples`: expected a list, found 'y'",
    'guests = [{seat="host", about="x"}]': "`guests[1].seat`: the seat 'host' is the supervisor's",
    'guests = [{seat="Old Tom", about="x"}]': "`guests[1].seat`: 'Old Tom' is not a seat name: use 1 to 63 of a-z",
    'guests = [{seat="zoe", about="x", name="  "}]': "`guests[1].name`: expected some text, found '  '",
    'guests = [{seat="zoe", about="x", coded=true}]': "`guests[1].coded`: only a party in Python",
    'guests = ["ada", "ada"]': "`guests`: the seat 'ada' is given twice",
}


def written(folder: Path, text: str | bytes, name: str = "my-party.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def complaint_of(path: Path) -> str:
    """What is said of a file. Every line of it names the file."""
    with pytest.raises(PartyError) as error:
        load_party(path)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") and len(line) < len(str(path)) + 250 for line in lines)
    return "\n".join(line.removeprefix(f"{path}: ") for line in lines)


def test_a_toml_file_describes_a_whole_party(tmp_path: Path) -> None:
    party = load_party(written(tmp_path, GOOD))
    assert (party.topic, party.host, party.policy) == ("What is bread for?", "Martha", "round-robin")
    assert (party.turns, party.turn_s, party.seed, party.model) == (6, 30.0, 7, "scripted/party")
    zoe, ada = party.guests
    assert (zoe.name, zoe.intention, zoe.model) == ("Zoe", "sell the last loaf", "local/smollm2-135m")
    assert (ada.name, ada.model) == ("Ada", None)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_a_toml_file_names_the_key_and_what_was_expected(tmp_path: Path, mistake: str) -> None:
    complaint = complaint_of(written(tmp_path, mistake))
    assert complaint.startswith(MISTAKES[mistake])
    assert len(complaint.splitlines()) == 1


def test_every_mistake_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    assert len(complaint_of(written(tmp_path, "\n".join(["topic = 3", "turns = 0", "guets = 1"]))).splitlines()) == 3


def test_a_file_that_is_not_toml_is_told_of_with_its_line(tmp_path: Path) -> None:
    complaint = complaint_of(written(tmp_path, 'turns = 3\ntopic = "open\n'))
    assert complaint.startswith("not valid TOML: ")
    assert "line 2" in complaint


def test_a_file_that_is_not_text_is_told_of(tmp_path: Path) -> None:
    assert complaint_of(written(tmp_path, b"topic = '\xff'")).startswith("cannot be read: 'utf-8' codec")


def test_a_file_that_is_far_too_large_is_not_read(tmp_path: Path) -> None:
    assert "larger than" in complaint_of(written(tmp_path, "#" * 1_000_001))


@pytest.mark.parametrize("name", ["none.toml", "none.py"])
def test_a_file_that_is_not_there_is_told_of(tmp_path: Path, name: str) -> None:
    assert complaint_of(tmp_path / name) == "there is no such file."


def test_a_file_with_another_suffix_is_told_what_a_party_is(tmp_path: Path) -> None:
    assert "a .toml file or a .py file" in complaint_of(written(tmp_path, GOOD, "party.yaml"))


@pytest.mark.parametrize("value", ["made", "lambda: made"])
def test_a_python_file_gives_a_party_or_a_function_that_makes_one(tmp_path: Path, value: str) -> None:
    code = f"from convive.scenarios import Party\nmade = Party(topic='Rain', turns=3)\nparty = {value}\n"
    assert load_party(written(tmp_path, code, "mine.py")).topic == "Rain"


def test_a_python_file_brings_its_own_participants(tmp_path: Path) -> None:
    code = """
from convive.agents import FunctionSeat
from convive.scenarios import Guest, Party

async def speak(turn):
    return "Hm."

party = Party(guests=(Guest(seat="zoe", participant=FunctionSeat(speak)),))
"""
    (zoe,) = load_party(written(tmp_path, code, "mine.py")).guests
    assert zoe.participant is not None
    assert (zoe.name, zoe.about) == ("Zoe", "a guest")


def test_a_python_file_imports_its_neighbours(tmp_path: Path) -> None:
    written(tmp_path, "TOPIC = 'Neighbours'", "next_door.py")
    code = "from convive.scenarios import Party\nfrom next_door import TOPIC\nparty = Party(topic=TOPIC)\n"
    assert load_party(written(tmp_path, code, "mine.py")).topic == "Neighbours"


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("guests = 3", "expected a name `party` that is a convive.scenarios.Party, or a function that returns one"),
        ("party = 3", "found int"),
        ("party = lambda: None", "found NoneType"),
        ("guests = 4", "found no such name"),
        ("party = 1 / 0", "it failed with ZeroDivisionError: division by zero. --debug shows where."),
        ("party = (", "it failed with SyntaxError: '(' was never closed"),
        ("raise SystemExit(3)", "it failed with SystemExit: 3."),
        ("import nowhere", "it failed with ModuleNotFoundError: No module named 'nowhere'"),
        ("party = lambda wanted: wanted", "it failed with TypeError"),
        ("from convive.scenarios import Party\nparty = Party(turns=0)", "`turns`: expected 1 or more, found 0"),
        (
            "from convive.scenarios import load_party\nfrom pathlib import Path\nparty = load_party(Path('no.toml'))",
            "no.",
        ),
    ],
)
def test_a_python_file_that_gives_no_party_says_why(tmp_path: Path, code: str, complaint: str) -> None:
    assert complaint in complaint_of(written(tmp_path, code, "mine.py"))
