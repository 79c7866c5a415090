"""What guests say: nasty model outputs, cleaned; and the requests that ask for better ones."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convive.agents.models._model import Request
from convive.scenarios.party._guests import GUESTS, HOST, TOPICS
from convive.scenarios.party._scene import Cue, Line, Persona, Scene
from convive.scenarios.party._speech import MAX_SENTENCES, best, clean, faults, score, unframed
from convive.scenarios.party._voice import (
    large_request,
    opening,
    small_limit,
    small_request,
    small_thought_request,
    thought,
    thought_request,
)
from convive.scenarios.party._words import sentences, things_in

OTHERS = ("Diogenes", "Basho", "Madame Shih")
LINES = (
    Line("Host", "Welcome. What would you carry out of a burning house?"),
    Line("Diogenes", "I own nothing, so I would carry the fire out and leave the house to its owner."),
    Line("Basho", "An old pond was my only companion. I carried it home in my hat."),
    Line("Madame Shih", "You take the ledger first, and then the people who can read it."),
)


def _scene(*, lines: tuple[Line, ...] = LINES, memories: tuple[str, ...] = (), cue: Cue = None) -> Scene:
    return Scene(GUESTS["ada"], TOPICS[0], lines, OTHERS, memories, cue)


@pytest.mark.parametrize(
    ("wrote", "says"),
    [
        ("My engine hums.", "My engine hums."),
        ("Ada: My engine hums.", "My engine hums."),
        ("ada: Ada: My engine hums.", "My engine hums."),
        ("  my engine hums. And then it", "My engine hums."),
        ("My engine", ""),
        ("", ""),
        ("...", ""),
        ("*leans in* My engine hums.", "My engine hums."),
        ("(She smiles.) My engine [a pause] hums.", "My engine hums."),
        ("**My engine** hums, _softly_.", "My engine hums, softly."),
        ("- My engine hums.\n- It counts.", "My engine hums. It counts."),
        ("1. My engine hums.", "My engine hums."),
        ("# A heading\nMy engine hums.", "A heading My engine hums."),
        ('"My engine hums," said Ada, rising.', "My engine hums."),
        ('"My engine hums." She sat down.', "My engine hums."),
        ("“My engine hums.", "My engine hums."),
        ("My engine hums. Diogenes: Mine barks.", "My engine hums."),
        ("My engine hums. DIOGENES : Mine barks.", "My engine hums."),
        ("My engine hums.\nMadame Shih: I want it.\nAda: No.", "My engine hums."),
        ("My engine hums. Old Stranger: Who am I?", "My engine hums."),
        ("Diogenes: My dog barks.", ""),
        ("My engine hums. As an AI language model, I have none.", "My engine hums."),
        ("As an AI, I cannot say.", ""),
        ("My engine hums. My engine hums. My engine hums.", "My engine hums."),
        ("An old pond was my only companion. My engine hums.", "My engine hums."),
        ("What would you carry out of a burning house? My engine hums.", "My engine hums."),
        ("You take the ledger first, and then the people who cannot.", ""),
        ("One. Two. Three. Four. Five.", "One. Two. Three."),
        ("My engine hums .  It counts , too !", "My engine hums. It counts, too!"),
        ("Ask Dr. Vane. He knows.", "Ask Dr. Vane. He knows."),
        ("My engine hums.\n\nNote: this is fiction.", "My engine hums."),
    ],
)
def test_what_a_model_wrote_becomes_what_a_guest_says(wrote: str, says: str) -> None:
    assert clean(wrote, _scene()) == says


_PIECES = st.sampled_from(
    [*"“”\"'*_#-()[]:.!?…\n ,", *OTHERS, "Ada", "Host", "said", "As an AI", "Mr.", "my engine", "I hum", "1.", "**"]
)
_TEXTS = st.lists(_PIECES | st.text(max_size=8), max_size=24).map(" ".join) | st.lists(_PIECES, max_size=24).map(
    "".join
)


@given(_TEXTS, st.integers(1, MAX_SENTENCES))
@settings(max_examples=400)
def test_what_is_said_is_short_finished_and_said_by_one_person(wrote: str, limit: int) -> None:
    scene = _scene()
    says = clean(wrote, scene, limit)
    assert len(sentences(says)) <= limit
    assert not re.search(
        r"(?:^|[.!?…][\"')]*\s)[\s\"']*(?:Ada|Host|Diogenes|Basho|Madame Shih)\s*:", says, re.IGNORECASE
    )
    assert not says or re.search(r"[.!?…][\"”']*$", says)
    assert "\n" not in says
    assert clean(says, scene, limit) == says


@pytest.mark.parametrize(
    ("wrote", "says"),
    [
        ("Let me ask you this, Basho: would you go? I would carry my engine.",) * 2,
        ("One thing I know: my engine hums. Look: it counts.",) * 2,
        ("I would carry 3.5 kilos of brass.",) * 2,
        ("My engine hums\nMadame Shih: I want it.", ""),
        ("My engine hums. “Basho: I want it.”", "My engine hums."),
    ],
)
def test_only_who_begins_to_speak_ends_a_speech(wrote: str, says: str) -> None:
    assert clean(wrote, _scene()) == says


_ECHO = "I own nothing, so I would carry the fire out and leave the house to its owner."


@pytest.mark.parametrize(
    ("wrote", "says"),
    [
        ("", ""),
        (" \n", ""),
        ("Hmm", "Hmm"),
        ("...", "..."),
        ("I'm sorry, Basho. I apologize to your frog, and to www.frog.example too.",) * 2,
        (f"{_ECHO} So says Diogenes. {_ECHO}",) * 2,
        ("Let me ask you this, Basho: would you leave the moon behind? I would carry my engine.",) * 2,
        ("I ask. Basho: would you go? Remember: My engine hums.",) * 2,
        ("Basho: would you leave the moon behind?",) * 2,
        ("Ada: **My engine** hums, *softly*, and `counts`.", "My engine hums, softly, and counts."),
        ("**Ada:** My engine hums.", "My engine hums."),
        ("*leans in* My engine hums. *smiles* It *never* stops. *Sits down*", "My engine hums. It never stops."),
        ("(She smiles.) My engine (so they say) hums.", "My engine (so they say) hums."),
        ("*Never*, Basho. 2 * 3 * 4 is 24.", "Never, Basho. 2 * 3 * 4 is 24."),
        ('"My engine hums. It counts."', "My engine hums. It counts."),
        ('"Never sell," my father said. I say "buy".',) * 2,
        ("My engine hums.\nMadame Shih: I want it.\nNow!\nAda: No.", "My engine hums. No."),
        ("Diogenes: My dog barks.\nAda: My engine hums.", "My engine hums."),
        ("Old pond,\na frog jumps in:\n\nmy whole poem.", "Old pond, a frog jumps in: my whole poem."),
        ("- My engine hums.\n- It counts.", "My engine hums. It counts."),
        ("1. My engine hums.\n2. It counts.", "My engine hums. It counts."),
        ("My engine hums. And then it", "My engine hums."),
        ("One. Two. Three. Four. Five. Six. Seven.", "One. Two. Three. Four. Five. Six."),
    ],
)
def test_what_a_large_model_wrote_loses_its_frame_and_no_words(wrote: str, says: str) -> None:
    assert unframed(wrote, _scene()) == says


@given(_TEXTS)
@example("* * ")
@settings(max_examples=300)
def test_what_a_large_model_wrote_is_never_lost_and_unframing_it_again_changes_nothing(wrote: str) -> None:
    says = unframed(wrote, _scene())
    assert bool(says) == bool(wrote.strip())
    assert unframed(says, _scene()) == says
    assert "\n" not in says


@pytest.mark.parametrize(
    "whole",
    [
        ("I would carry 3.5 kilos of brass.",),
        ("At 7.30 we eat.", "Read it at example.com today."),
        ("The U.S. navy is late.", "So is J. S. Bach, e.g. tonight."),
        ("Well (so they say.)", "I go."),
        ("Is Dr. Vane in?", "No.", "It was I."),
        ("No. 7 is late, vs. No. 8 at 5 p.m. sharp.", "Come at 5 p.m.", "Bring bread, cups, etc.", "Eat!"),
        ("... I wait.", "“Do you?”", "I do ..."),
        ("Stop!now, or go.",),
    ],
)
def test_sentences_end_where_a_reader_ends_them(whole: tuple[str, ...]) -> None:
    assert sentences(" ".join(whole)) == whole
    assert sentences(" ".join(whole) + " And then") == whole


def test_a_title_at_the_very_end_ends_a_sentence() -> None:
    assert sentences("I met the Dr.") == ("I met the Dr.",)
    assert sentences("I met the Dr. Va") == ()


_PROSE = st.lists(
    st.sampled_from(["3.5", "U.S.", "Dr.", "No.", "I.", "moon", "Moon.", "(so)", "x.)", "!?", "...", "“a.”", "p.m."])
    | st.text(max_size=6),
    max_size=20,
).map(" ".join)


@given(_PROSE)
@settings(max_examples=500)
def test_sentences_are_the_beginning_of_the_text_and_the_rest_is_unfinished(text: str) -> None:
    whole, joined = " ".join(text.split()), " ".join(sentences(text))
    assert whole.startswith(joined)
    rest = whole[len(joined) :].strip()
    assert not (re.search(r"\w", rest) and rest[-1] in ".!?…")


@pytest.mark.parametrize(
    ("says", "fault"),
    [
        ("", "nothing to say"),
        ("Yes, indeed.", "too short"),
        ("It is a wheel, it is a wheel, it is a wheel of brass.", "goes round in circles"),
        ("I keep the people who can read it in my brass pocket.", "echoes what was said"),
        ("My engine could send Diogenes an email about the brass wheels tonight.", "forgets when it lives"),
        ("Give me your ledger, Ada, and I will count its pages.", "speaks to itself"),
        ("My engine would count. small wheels of brass and fire.", "is garbled"),
        ("I do. You know, we all would.", "falls flat"),
    ],
)
def test_faults_are_named(says: str, fault: str) -> None:
    assert fault in faults(says, _scene())


def test_the_best_candidate_has_no_fault_and_takes_up_what_was_said() -> None:
    good = "Give me your ledger, Madame Shih, and my engine will count every burning page by morning."
    poor = "It is good. It is good and it is good and it is good."
    assert faults(good, _scene()) == ()
    assert best([poor, "", good], _scene(), 2) == good
    assert best(["", "Diogenes: no."], _scene()) == ""
    assert score(good, _scene()) > score(poor, _scene()) > score("", _scene())


@pytest.mark.parametrize(
    ("text", "things"),
    [
        ("My crew knows that I can do it.", ("crew",)),
        ("I had a bucket of fire and the ledger.", ("bucket", "ledger")),
        ("You take the ledger first.", ("ledger",)),
        ("The moon tonight is late.", ("moon",)),
        ("Nothing at all.", ()),
    ],
)
def test_things_are_found_by_their_articles(text: str, things: tuple[str, ...]) -> None:
    assert things_in(text) == things


def test_a_small_request_leads_into_an_answer_about_what_was_just_said() -> None:
    starts = {opening(small_request(_scene(), seed)) for seed in range(40)}
    assert len(starts) > 5
    assert any("your ledger" in start and "Madame Shih" in start for start in starts)
    assert starts & {"My engine could", "By my arithmetic,"}
    assert not any(re.search(r"[.!?]$", start) for start in starts)


def test_two_who_talk_among_themselves_draw_in_who_was_quiet() -> None:
    duel = tuple(Line(who, f"My {thing} is here.") for who, thing in (("Ada", "wheel"), ("Diogenes", "dog")) * 3)
    starts = {opening(small_request(_scene(lines=(*LINES[:1], *duel[:-2], *duel[-2:])), seed)) for seed in range(60)}
    assert any("Basho" in start or "Madame Shih" in start for start in starts)
    assert not any(start.startswith(("Diogenes,", "Your", "Give me")) for start in starts)
    assert not any("{" in start for start in starts)


def test_a_small_request_depends_on_nothing_but_its_arguments() -> None:
    assert small_request(_scene(), 5) == small_request(_scene(), 5) != small_request(_scene(), 6)


def test_a_memory_is_shown_to_a_small_model_and_taken_up_again() -> None:
    memory = "Basho's pond: I think Basho hides something in it."
    said = (*LINES, Line("Ada", "My engine hums along."), Line("Madame Shih", "The sea is a ledger."))
    for turns in range(3):
        lines = (*(Line("Ada", f"Turn {n} hums.") for n in range(turns)), *said)
        request = small_request(_scene(lines=lines, memories=(memory,)), 1)
        assert any("hides something" in message.text for message in request.messages)
        if "Basho" in opening(request) and "pond" in opening(request):
            return
    pytest.fail("the pond was forgotten")


def test_a_persona_without_samples_still_gets_openings_of_its_own() -> None:
    keeper = Persona("Mira", "a lonely keeper of the bees on a roof", "sell the honey")
    scene = Scene(keeper, "What is time?", LINES[:1], OTHERS)
    starts = {opening(small_request(scene, seed)) for seed in range(20)}
    assert starts & {"My bees", "My roof"}


def test_a_visitor_from_beside_the_table_is_answered() -> None:
    scene = _scene(lines=(*LINES, Line("Carl", "I brought you a cake.")))
    assert any("cake" in opening(small_request(scene, seed)) for seed in range(20))


def test_the_host_opens_with_the_topic_and_toasts_what_was_said() -> None:
    table = ("Ada", *OTHERS)
    scene = Scene(HOST, TOPICS[0], (), table, (), "open")
    request = small_request(scene, 3)
    text = best([opening(request)], scene, small_limit(request))
    assert text.endswith(TOPICS[0])
    assert all(name in text for name in table)
    assert faults(text, scene) == ()
    scene = Scene(HOST, TOPICS[0], LINES, table, (), "toast")
    request = small_request(scene, 3)
    text = best([opening(request) + " run out of candles."], scene, small_limit(request))
    assert "Basho's hat" in text
    assert "Madame Shih's ledger" in text
    assert text.endswith("And may none of us ever run out of candles.")


def test_a_thought_becomes_a_memory_and_a_useless_one_is_replaced() -> None:
    request = small_thought_request(_scene(), 1)
    assert request is not None
    start = opening(request)
    who = start.removeprefix("I think ")
    assert thought(_scene(), f"{start} is hiding a map. He").endswith(f": I think {who} is hiding a map.")
    assert thought(_scene(), "As an AI, no.").endswith("if I am to find money for my engine.")
    assert thought(_scene(lines=())) == ""
    assert small_thought_request(_scene(lines=()), 1) is None


def _prefix(request: Request) -> tuple[object, ...]:
    return (request.system, *((message.role, message.text) for message in request.messages[:-1]))


def test_a_large_request_only_grows_so_that_a_prompt_cache_holds() -> None:
    first = large_request(_scene(memories=("I envy the pond.",)))
    longer = (*LINES, Line("Ada", "My engine hums."), Line("Basho", "Then it is awake."))
    second = large_request(_scene(lines=longer, memories=("I envy the pond.", "It is awake.")))
    assert _prefix(second)[: len(_prefix(first))] == _prefix(first)
    heard, cue = second.messages[-3].parts[0], second.messages[-1].parts[-1]
    assert heard == first.messages[-1].parts[0]
    assert "It is awake." in str(cue)
    assert [message.role for message in second.messages] == ["user", "assistant", "user"]
    assert "privately want" in second.system
    assert "find money" in second.system


def test_a_seed_is_for_every_model() -> None:
    assert large_request(_scene(), 3).sampling.seed == thought_request(_scene(), 3).sampling.seed == 3


def test_a_large_model_is_asked_for_a_thought_about_the_same_conversation() -> None:
    asked, thinks = large_request(_scene()), thought_request(_scene())
    assert thinks.system == asked.system
    assert thinks.messages[-1].parts[0] == asked.messages[-1].parts[0]


@pytest.mark.parametrize("seat", GUESTS)
def test_the_default_guests_have_voices_of_their_own(seat: str) -> None:
    persona = GUESTS[seat]
    scene = Scene(persona, TOPICS[0], (), tuple(one.name for one in GUESTS.values() if one is not persona))
    for sample in persona.samples:
        assert clean(sample, scene) == sample
        assert things_in(sample)
    assert len(set(persona.openers)) >= 5
