"""From what a model wrote to what a guest says: cleaning, the faults of a candidate, and which candidate is best."""

import re
from collections.abc import Iterable

from convive.scenarios.party._scene import Scene
from convive.scenarios.party._words import content_words, runs, sentence_words, sentences, words

MAX_SENTENCES = 3
_LARGE_SENTENCES = 6  # twice what it is asked for: nothing is cut from who runs on a little
_ECHO_RUN = 6
_FLAT = 6.0  # about half of what SmolLM2 says lies below
_NOT_A_GUEST = re.compile(
    r"\bas an? (?:ai|artificial|language|assistant)\b|\blanguage model\b|\bI(?:'m| am) (?:an ai|smollm|sorry)\b"
    r"|\bsmollm\b|\bhugging face\b|\bI apologi[sz]e\b|\bI can(?:'t|not) (?:assist|help)\b"
    r"|\bnot sure what you mean\b|\bthe (?:prompt|user)\b|https?:|www\.",
    re.IGNORECASE,
)
_MODERN_LIST = """
app bathroom bus car cars computer computers email internet laptop movie online phone pizza tv video
website
"""
_MODERN = frozenset(_MODERN_LIST.split())
_COARSE_LIST = """
ass asshole bastard bitch cock cunt damn dick fuck fucked fucking hitler idiot jew jews naked nazi
nazis negro nigger penis porn pussy rape raped raping retard sex sexual sexy shit slave slaves slut
stupid suicide whore
"""
_COARSE = frozenset(_COARSE_LIST.split())
_ASIDE = re.compile(r"\([^()]*\)|\[[^\[\]]*\]|<[^<>]*>|(?<!\w)\*[^*\n]+\*(?!\w)")
_BOLD = re.compile(r"(\*\*|__)(.+?)\1")
_MARKS = re.compile(r"^\s*(?:[-*•>#]+|\d+[.)])\s+|[*_`#~|<>\[\](){}\\]")
_BEGINS = r"(?:^|\n|[.!?…][\"”')\]]*\s)[\s\"“']*"  # of a line or a sentence
# A stranger's words begin with a capital: "Old Stranger: Who am I?", and not "One thing: my engine" or "Look: a star".
_SPEAKER = re.compile(rf"{_BEGINS}(?P<name>[A-Z][\w'.-]*(?:\s+[A-Z][\w'.-]*){{0,2}})\s*:\s*[\"“]?[A-Z]")
_LOOSE = re.compile(r"\s+([,.!?;:…]|'(?:s|d|m|ll|re|ve)\b|n't\b)")
_HEADING = re.compile(r"^\s*(?:#+\s+|>\s*|[-*•]\s+)+")
_ITEM = re.compile(r"^\s*\d{1,2}[.)]\s+")
# Before a new sentence or alone. Emphasis ("*Never*, Basho") and what is said in brackets inside a speech stay.
_STAGE = re.compile(
    r"(?:^\s*\([^()]*\)|(?:^|(?<=[.!?…]))\s*(?:\[[^\[\]]*\]|\*(?:[a-z][^*]*|[^*]*[^*.!?…])\*))(?=\s+[\"“]?[A-Z]|\s*$)"
)
_EMPHASIS = re.compile(r"(?<![\w*_`])([*_`])(?=\S)([^*_`]*[^\s*_`])\1(?![\w*_`])")
_WHOLLY_QUOTED = re.compile(r"^[\"“”]([^\"“”]*)[\"“”]$")
_QUOTES = '"“”«»'
_SPOKEN = re.compile(r"^[\"“](.+?[.!?…,])[\"”](?:\s|$)")


def clean(text: str, scene: Scene, limit: int = MAX_SENTENCES) -> str:
    """What of a small model's text its persona may say: one to `limit` finished sentences; "" when nothing is usable.

    No markdown, no stage directions, no quotation marks around it, no own name in front, nothing said for others,
    no sentence that was said before. Cleaning what is clean changes nothing.
    """
    while (cleaned := _clean_once(text, scene, limit)) != text:
        text = cleaned
    return text


def _clean_once(text: str, scene: Scene, limit: int) -> str:
    text = _unquote(_joined(_one_speaker(_plain(text), scene)))
    kept: list[str] = []
    for sentence in sentences(text):
        if len(kept) == limit or _NOT_A_GUEST.search(sentence):
            break
        if _is_echo(sentence, scene) or words(sentence) in [words(other) for other in kept]:
            if kept:
                break
            continue
        kept.append(sentence)
    joined = " ".join(kept).lstrip(" ,;:-\u2013\u2014.!?…'")
    return joined[:1].upper() + joined[1:] if re.search(r"\w", joined) else ""


def unframed(text: str, scene: Scene) -> str:
    """What a model that is not small wrote, as its persona says it; "" only for a text that is empty.

    Only the frame goes: markup, stage directions, quotation marks around the whole, the own name in front, lines that
    begin with the name of somebody else, what is unfinished at the end, and what goes on for too long. The words are
    the model's own.
    """
    whole = _joined(text)
    return _stripped(text, scene) or _stripped(whole, scene) or whole


def _stripped(text: str, scene: Scene) -> str:
    while (once := _unframed_once(text, scene)) != text:
        text = once
    return text


def _unframed_once(text: str, scene: Scene) -> str:
    rows = [_STAGE.sub("", _HEADING.sub("", row)) for row in _BOLD.sub(r"\2", text).splitlines()]
    if len(rows) > 1:
        rows = [_ITEM.sub("", row) for row in rows]
    row = _WHOLLY_QUOTED.sub(r"\1", _joined(_EMPHASIS.sub(r"\2", "\n".join(_own_rows(rows, scene)))))
    return " ".join(sentences(row)[:_LARGE_SENTENCES]) or row


def _own_rows(rows: list[str], scene: Scene) -> list[str]:
    """The rows up to one that another name introduces, and those from one that the own name does."""
    own, others = scene.persona.name, [name for name in scene.names if name and name != scene.persona.name]
    kept: list[str] = []
    mine = True
    for row in rows:
        if said := _introduced(row, [own]):
            mine, row = True, row[said.end() :]
        elif _introduced(row, others):
            mine = False
        if mine:
            kept.append(row)
    return kept


def _introduced(row: str, names: list[str]) -> re.Match[str] | None:
    return re.match(rf"\s*(?:(?:{_any_of(names)})\s*:\s*)+", row, re.IGNORECASE) if names else None


def _any_of(names: Iterable[str]) -> str:
    return "|".join(re.escape(name) for name in names)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _plain(text: str) -> str:
    """One paragraph without markup: the first lines up to an empty one."""
    text = _BOLD.sub(r"\2", text.strip().replace("\u2018", "'").replace("\u2019", "'"))
    paragraph = re.split(r"\n\s*\n", text, maxsplit=1)[0]
    rows = [_MARKS.sub("", _ASIDE.sub(" ", row)) for row in paragraph.splitlines()]
    return "\n".join(_LOOSE.sub(r"\1", _joined(row)) for row in rows)


def _one_speaker(text: str, scene: Scene) -> str:
    """Without the speaker's own name in front, and up to the sentence or line that another name introduces."""
    own = re.escape(scene.persona.name)
    text = re.sub(rf"^(?:{own}\s*(?::|says[:,]|said[:,])\s*)+", "", text, flags=re.IGNORECASE)
    known = re.compile(rf"{_BEGINS}(?P<name>{_any_of(name for name in scene.names if name)})\s*:", re.IGNORECASE)
    cuts = [match.start("name") for match in (known.search(text), _SPEAKER.search(text)) if match]
    return text[: min(cuts)] if cuts else text


def _unquote(text: str) -> str:
    """Inside the quotation marks when the text begins with one; without a mark that has no partner."""
    spoken = _SPOKEN.match(text)
    if spoken:
        inner = spoken.group(1)
        return inner[:-1] + "." if inner.endswith(",") else inner
    if text[:1] in tuple(_QUOTES) or sum(text.count(mark) for mark in _QUOTES) % 2:
        return "".join(char for char in text if char not in _QUOTES)
    return text


def _is_echo(sentence: str, scene: Scene) -> bool:
    shared, mine = runs(sentence, _ECHO_RUN), tuple(words(sentence))
    if scene.cue != "open" and shared & runs(scene.topic, _ECHO_RUN):
        return True
    return any(shared & runs(line.text, _ECHO_RUN) or mine in sentence_words(line.text) for line in scene.lines)


def faults(text: str, scene: Scene) -> tuple[str, ...]:
    """What is wrong with a cleaned candidate, in words; () when it can be said. A host's turn is never flat."""
    wrong = blemishes(text, scene)
    if not wrong and scene.cue is None and score(text, scene) < _FLAT:
        return ("falls flat",)
    return wrong


def blemishes(text: str, scene: Scene) -> tuple[str, ...]:
    """The faults that are more than a matter of taste."""
    if not text:
        return ("nothing to say",)
    said = words(text)
    name = re.escape(scene.persona.name)
    checks = {
        "too short": len(said) < 4,
        "too long": len(said) > 70,
        "goes round in circles": _loops(said),
        "echoes what was said": any(runs(text, 5) & runs(known, 5) for known in _known(scene)),
        "forgets when it lives": bool(set(said) & _MODERN - set(words(f"{scene.topic} {scene.persona.about}"))),
        "is coarse": bool(set(said) & _COARSE),
        "speaks to itself": bool(re.search(rf"(?<!\bam )(?<!\bis )\b{name}\b", text, re.IGNORECASE)),
        "is garbled": any(sentence[0].islower() for sentence in sentences(text)),
    }
    return tuple(fault for fault, found in checks.items() if found)


def _known(scene: Scene) -> Iterable[str]:
    if scene.cue != "open":
        yield scene.topic
    yield from scene.persona.samples
    yield from scene.memories
    yield from (line.text for line in scene.lines)


def _loops(said: list[str]) -> bool:
    """Whether a run of three words comes back, or few words do all the work."""
    triples = [tuple(said[i : i + 3]) for i in range(len(said) - 2)]
    return len(set(triples)) < len(triples) or (len(said) >= 10 and len(set(said)) / len(said) < 0.62)


def best(texts: Iterable[str], scene: Scene, limit: int = MAX_SENTENCES) -> str:
    """The best of several candidates, cleaned, each also tried without its last sentence; "" when none is usable."""
    fewest = limit if scene.cue == "open" else max(1, limit - 1)
    drafts = [clean(text, scene, n) for text in texts for n in range(fewest, limit + 1)]
    return max(drafts, key=lambda draft: score(draft, scene), default="")


def score(text: str, scene: Scene) -> float:
    """How well a cleaned candidate serves the scene; higher is better, and no virtue makes up for a blemish."""
    said, meaning = words(text), content_words(text)
    if not said:
        return -100.0
    points = -10.0 * len(blemishes(text, scene))
    if scene.last and meaning & content_words(scene.last.text):
        points += 1.0
    if meaning & content_words(scene.topic):
        points += 1.0
    own = content_words(f"{scene.persona.about} {scene.persona.intention} {' '.join(scene.persona.samples)}")
    points += min(1.5, 0.75 * len(meaning & own))
    recent = frozenset[str]().union(*(content_words(line.text) for line in scene.lines[-6:]))
    points += min(2.0, 0.4 * len(meaning - recent))
    points += 3.0 * len(set(said)) / len(said)
    return points - 0.12 * max(0, len(said) - 26) - 0.15 * max(0, 14 - len(said))
