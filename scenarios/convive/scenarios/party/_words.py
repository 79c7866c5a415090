"""Words and sentences, as far as judging and shaping one spoken line needs them. English only, and by rule of thumb."""

import re
from collections.abc import Iterable
from functools import lru_cache

_FUNCTION_WORDS_LIST = """
a about after again all alone also always am an and any anyone anything are around as at away back
be because been before being but by came can cannot come could did do does done down each either
else enough even ever every everything few first for found from gave get give go goes got had has
have he her here hers him his how i if in into is it its itself just keep kept know last least less
let like made make many may me might mine more most much must my myself need never next no nor not
nothing now of off on once one only or other our out over own perhaps put said same saw say says see
seen shall she should so some someone something still such take tell than that the their them then
there these they this those though through to together told too took two under until up upon us very
was we well went were what whatever when where whether which while who whole whom whose why will
with without would yes yet you your yours
"""
_FUNCTION_WORDS = frozenset(_FUNCTION_WORDS_LIST.split())
_VAGUE_LIST = """
answer art behalf best better big bit burning case course day days dear dinner end evening fact
first friend friends gentleman good great guest guests hand hands host idea kind lady last left life
little lives long lot man matter men moment name new old ones only others own part past people
person place point question reason rest right sake side sir small sort table thing things time times
truth way ways woman women word words world year years
"""
_VAGUE = frozenset(_VAGUE_LIST.split())
_NOT_NOUNS_LIST = """
ahead alive alone aloud amazing angry asleep awake bad beautiful believes big bites black blue bold
breaks bright brings broken builds burns burnt calls carries changes cold comes contains costs cries
cuts dark dead deep dies different drinks drops early eat eats empty entire falls fast fat feels
fights fine flies floats follows forever free fresh full gives glows goes golden gray green grey
grows half happy hard hears heavy helps hidden high holds honest hot howls hungry hurts immortal
kills knows large late laughs leads leaves lies light likes lives long looks lost loud loves low
makes means moves naked narrow needs nice open plays poor pretty pure quiet quite rare reads real
really red remains rich rises round runs sad sails saw says seems sees sells sharp shines short sick
silent simple sings sits sleeps slow smells smooth soft sounds speaks stands starts stays stops
strange strong sweet takes talks tall tastes teaches tells thick thin thinks tired today tomorrow
tonight turns ugly usual waits wakes walks wants warm weak wears weeps wet white wide wild wins wise
wonderful works worse worth writes wrong yellow yesterday young
"""
_NOT_NOUNS = frozenset(_NOT_NOUNS_LIST.split())
_NP = re.compile(r"\b(my|your|the|a|an|our|his|her)\s+((?:[a-z][a-z'-]*\s+){0,2}[a-z][a-z'-]*)", re.IGNORECASE)
_VERBISH = re.compile(r"(?:ed|ing|ly|est)$")
_END = re.compile(r"[.!?…]+[\"”\u2019»')\]*_]*(?=\s|$)")
_TITLE = re.compile(r"\b(?:Mrs?|Ms|Dr|St|Prof|Mme|Mlle|Capt|Col|Gen|Lt|Sgt|Rev|Hon|vs|cf|e\.g|i\.e)\.$")
_INITIALS = re.compile(r"(?:\b[A-Z]\.)+[A-Z]\.$|(?<![\w'\u2019.-])[A-HJ-Z]\.$")
_SHORTENED = re.compile(r"\b(?:etc|[ap]\.m)\.$")  # may end a sentence; what follows tells
_NUMBER = re.compile(r"\b[Nn]o\.$")
_CACHED = 1024  # every line at a table is looked at in every turn, and for every candidate
_WEIGHT = {"my": 3, "your": 1, "our": 2, "his": 1, "her": 1, "the": 2, "a": 2, "an": 2}


def words(text: str) -> list[str]:
    """The words of a text, lower case, without punctuation."""
    return re.findall(r"[\w'-]+", text.lower().replace("\u2019", "'"))


@lru_cache(maxsize=_CACHED)
def content_words(text: str) -> frozenset[str]:
    """The words that carry meaning, with a plural `s` removed so that `wheel` meets `wheels`."""
    return frozenset(_stem(word) for word in words(text) if word not in _FUNCTION_WORDS and len(word) > 2)


def _stem(word: str) -> str:
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


@lru_cache(maxsize=_CACHED)
def sentences(text: str) -> tuple[str, ...]:
    """The finished sentences of a text in order; what follows the last full stop is left out, and nothing else.

    Joined with spaces they are the beginning of the text, white space apart: a stop inside a word ("3.5"), after a
    title or after an initial ends no sentence.
    """
    text = " ".join(text.split())
    found: list[str] = []
    begin = 0
    for end in _END.finditer(text):
        piece, rest = text[begin : end.end()], text[end.end() :].lstrip()
        if re.search(r"\w", piece) and not (rest and _goes_on(piece, rest)):
            found.append(piece.strip())
            begin = end.end()
    return tuple(found)


def _goes_on(piece: str, rest: str) -> bool:
    """Whether the stop at the end of a piece belongs to a shortened word, with the rest of the sentence to come."""
    if _TITLE.search(piece) or _INITIALS.search(piece):
        return True
    return bool(rest[0].islower() and _SHORTENED.search(piece)) or bool(rest[0].isdigit() and _NUMBER.search(piece))


@lru_cache(maxsize=_CACHED)
def sentence_words(text: str) -> frozenset[tuple[str, ...]]:
    """The finished sentences of a text, each as its words."""
    return frozenset(tuple(words(sentence)) for sentence in sentences(text))


@lru_cache(maxsize=_CACHED)
def runs(text: str, length: int) -> frozenset[tuple[str, ...]]:
    """Every run of `length` words in a row."""
    row = words(text)
    return frozenset(tuple(row[i : i + length]) for i in range(len(row) - length + 1))


def is_plural(noun: str) -> bool:
    """Whether a noun takes "are"."""
    return noun in ("people", "men", "women", "children", "mice", "teeth", "feet") or _stem(noun) != noun


def things_in(text: str, avoid: Iterable[str] = ()) -> tuple[str, ...]:
    """Nouns a text is about, best guess first: what follows "my", then "the" or "a"; singular or plural as written."""
    shunned = {_stem(word) for name in avoid for word in words(name)}
    found: dict[str, float] = {}
    for match in _NP.finditer(text):
        noun = _noun(match.group(2).lower().split())
        if noun and noun not in _VAGUE and _stem(noun) not in shunned:
            found[noun] = found.get(noun, 0) + _WEIGHT[match.group(1).lower()]
    return tuple(sorted(found, key=lambda noun: -found[noun]))


def _noun(phrase: list[str]) -> str:
    """The head of what follows an article: the last word before a word that ends a noun phrase."""
    head = ""
    for word in phrase:
        word = word.removesuffix("'s").strip("'-")
        if "'" in word or word in _FUNCTION_WORDS or (word in _NOT_NOUNS and head) or (head and _VERBISH.search(word)):
            break
        head = word
    return head if len(head) > 2 and not _VERBISH.search(head) and head not in _NOT_NOUNS else ""
