"""The request that asks a model to speak its turn, in two shapes.

A large model gets its part in the system prompt, the dinner so far as one growing conversation, and freedom.
A small model (around 100 million parameters) cannot hold a part, and it copies what it is shown. It gets sample lines
as its own earlier answers, a short question about a thing that was just named instead of the conversation, and the
first words of its answer, which it continues. Everything is pure: variety comes from `seed` and from what was said.
"""

import re
import zlib

from convive.agents import Message, Request, Sampling, assistant, user
from convive.scenarios.party._scene import Line, Persona, Scene
from convive.scenarios.party._speech import MAX_SENTENCES, blemishes, clean
from convive.scenarios.party._words import content_words, is_plural, sentences, things_in, words

# Ways to take up what somebody just said. Each stops inside a clause that a small model can finish.
_REPLIES = (
    "{who}, your {thing} {is_}",
    "What good {is_} your {thing}, {who}, if",
    "Give me your {thing}, {who}, and I will",
    "I once had {a} {thing} like yours, {who}, and",
    "{who}, I would trade your {thing} for",
    "If I had your {thing}, {who}, I would",
    "Your {thing}, {who}, {reminds} me of",
    "You may keep your {thing}, {who}. I",
)
# No template holds a run of words so long that its second use would count as an echo, unless it begins with it.
# The same without a name, so that the floor goes round, and with the name of somebody who was quiet, who may get it.
_REMARKS = (
    "That {thing} {reminds} me of",
    "I would not trust {a} {thing}, because",
    "I have seen {a} {thing} like that, and",
    "We speak of {a} {thing}, and nobody",
    "{A} {thing} would bore me, because",
    "I could sleep beside {a} {thing} like that, but",
)
_HANDOVERS = (
    "{quiet}, would you keep {who}'s {thing}? I would",
    "{quiet}, do not laugh at {who}'s {thing}. It",
    "{quiet}, look at {who}'s {thing}. It",
    "Between us, {quiet}, {who}'s {thing} {is_}",
)
_RECALLS = (
    "I have not forgotten your {thing}, {who}. You",
    "{who}, your {thing} would not let me sleep. You",
    "A while ago you spoke of your {thing}, {who}. I",
    "Since you named your {thing}, {who}, I",
    "Earlier, {who}, your {thing} made me",
    "That {thing} of yours, {who}, has",
)
_TOAST_SAMPLE = (
    "Raise your glasses: to the moon and to the garden. May the one shine on the other until the cook is asleep."
)
_MASS_NOUNS_LIST = """
arithmetic art bread courage fire food gold love money music silk silver water wine wood
"""
_MASS_NOUNS = frozenset(_MASS_NOUNS_LIST.split())
_PLAIN_SAMPLES = (
    "Rain is the one guest who never asks to come in. I open the window for it anyway.",
    "A king is a man in a heavy hat. I bow to the hat, and I keep my eye on the man.",
    "A song costs nothing and stays for years. I wish I could say that of my shoes.",
)
_WORN = 2  # a thing that more lines than this have named is left alone
_SMALL = Sampling(max_tokens=56, temperature=0.8, stop=("\n",))
_LARGE = Sampling(max_tokens=300)
_MEMORY = re.compile(r"^(?P<who>.+?)'s (?P<thing>[\w'-]+): (?P<told>.+)$")


def small_request(scene: Scene, seed: int) -> Request:
    """A request for a small local model. Its last message is the assistant's: the words that the answer continues.

    Prepend `opening(request)` to the answer before cleaning it. Another seed gives another opening.
    """
    persona, start = scene.persona, _opening(scene, seed)
    if scene.cue == "toast":
        messages = [user("Give a toast."), assistant(_TOAST_SAMPLE), user("Give a toast.")]
    else:
        thing = _last_thing(scene)
        ask = f"What do you make of the {thing}, {persona.name}? {scene.topic}" if thing else scene.topic
        messages = [*_sample_messages(persona), *_memory_messages(scene), user(ask)]
    sampling = _SMALL.model_copy(
        update={"seed": _mixed(scene, seed), "max_tokens": 1 if scene.cue == "open" else _SMALL.max_tokens}
    )
    return Request(_small_system(scene), (*messages, assistant(start)), (), sampling)


def _mixed(scene: Scene, seed: int) -> int:
    """Another seed at every turn, so that equal openings do not go on equally."""
    return seed * 1009 + len(scene.lines)


def _sample_messages(persona: Persona) -> tuple[Message, ...]:
    messages: list[Message] = []
    for sample in persona.samples or _PLAIN_SAMPLES:
        thing = next(iter(things_in(sample)), "that")
        messages += user(f"What do you make of the {thing}, {persona.name}?"), assistant(sample)
    return tuple(messages)


def _memory_messages(scene: Scene) -> tuple[Message, ...]:
    """The newest memory as an exchange, in the only form that a small model takes up."""
    match = _MEMORY.match(scene.memories[-1]) if scene.memories else None
    if not match:
        return ()
    return user(f"What do you secretly think of {match['who']}?"), assistant(match["told"])


def opening(request: Request) -> str:
    """The words that the answer continues; "" when the request ends with the user."""
    return request.messages[-1].text if request.messages[-1].role == "assistant" else ""


def small_limit(request: Request) -> int:
    """How many sentences to keep: a small model's first ones are its best, so two beyond those of the opening.

    An opening that is whole already, the host's welcome, gets none.
    """
    start = opening(request)
    begun = len(sentences(start))
    return begun if start.endswith((".", "!", "?")) else min(MAX_SENTENCES, begun + 2)


def _small_system(scene: Scene) -> str:
    persona = scene.persona
    text = f"You are {persona.name}, {persona.about.rstrip('.')}."
    if scene.others:
        text += f" You are at dinner with {_list(scene.others)}."
    if persona.intention:
        text += f" You want to {persona.intention.rstrip('.')}."
    return text + " You speak in one or two short sentences."


def _opening(scene: Scene, seed: int) -> str:
    match scene.cue:
        case "open":
            return welcome(scene, seed)
        case "toast":
            return f"{toast(scene)} And may none of us ever"
        case None:
            pass
    n, turn = _spin(str(seed), str(len(scene.lines))), len(scene.own)
    own = (*(scene.persona.openers or _about_openers(scene.persona)), *_topic_openers(scene.topic))
    begun = [line.text.lower() for line in scene.own]
    own = tuple(start for start in own if not any(text.startswith(start.lower()) for text in begun)) or own
    if turn and (turn + _spin(scene.persona.name)) % 3 == 0 and (recalled := _recall(scene, n)):
        return recalled
    last, thing = scene.last, _last_thing(scene)
    if not thing or not last or n % 3 == 0:
        return own[n % len(own)] if own else "I think"
    kind = _kind_of_reply(scene, n)
    replies = tuple(_filled(reply, last.speaker, thing, _quietest(scene)) for reply in kind)
    replies = _unused(replies, scene) or replies
    return replies[n % len(replies)]


def _kind_of_reply(scene: Scene, n: int) -> tuple[str, ...]:
    """By name a third of the time, and not while a few talk among themselves and others wait."""
    elsewhere = _HANDOVERS if _quietest(scene) else _REMARKS
    lately = [line.speaker for line in scene.lines[-4:]]
    duel = scene.persona.name in lately[-2:] or (scene.last is not None and lately.count(scene.last.speaker) > 1)
    kinds = (_REMARKS, elsewhere) if duel else (_REPLIES, _REMARKS, elsewhere)
    return kinds[n // 7 % len(kinds)]


def _quietest(scene: Scene) -> str:
    """The guest, other than the last speaker, who spoke longest ago; "" when there is none."""
    newest = {line.speaker: place for place, line in enumerate(scene.lines)}
    waiting = [name for name in scene.others if not scene.last or name != scene.last.speaker]
    return min(waiting, key=lambda name: newest.get(name, -1), default="")


def _spin(*of: str) -> int:
    """A number that follows from a few words and looks like chance."""
    return zlib.crc32("/".join(of).encode())


def _filled(template: str, who: str, thing: str, quiet: str = "") -> str:
    many = is_plural(thing)
    a = "some" if many or thing in _MASS_NOUNS else _article(thing)
    verb, reminds = ("are", "remind") if many else ("is", "reminds")
    return template.format(who=who, thing=thing, quiet=quiet, a=a, A=a.capitalize(), is_=verb, reminds=reminds)


def _unused(openers: tuple[str, ...], scene: Scene) -> tuple[str, ...]:
    """Those with whose first three words nobody has begun yet."""
    begun = {tuple(words(line.text)[:3]) for line in scene.lines}
    return tuple(opener for opener in openers if tuple(words(opener)[:3]) not in begun)


def _article(thing: str) -> str:
    return "an" if thing[0] in "aeiou" else "a"


def _topic_openers(topic: str) -> tuple[str, ...]:
    """The beginning of an answer, where the question gives it away ("What would you carry ..." -> "I would carry")."""
    if match := re.search(r"\b(would|will|could|should) you (\w+)", topic, re.IGNORECASE):
        return (f"I {match[1].lower()} {match[2].lower()}",)
    if match := re.match(r"(?:what|who) (is|are|was|were) (the [^?,.;]{3,40}?)\s*\?$", topic, re.IGNORECASE):
        return (f"{match[2][0].upper()}{match[2][1:]} {match[1].lower()}",)
    if match := re.match(r"(can|could|should|will|must|may) ((?:an?|the) \w+|we|people)\b", topic, re.IGNORECASE):
        return (f"{match[2][0].upper()}{match[2][1:].lower()} {match[1].lower()}",)
    return tuple(f"{_article(thing).capitalize()} {thing} is" for thing in things_in(topic)[:1] if not is_plural(thing))


def _about_openers(persona: Persona) -> tuple[str, ...]:
    """Beginnings for a persona that brings none: the things in its description and in what it wants."""
    rest = re.sub(r"^an? \w+(?: \w+)*? (?=who|with|that|in|of|from|whose)", "", persona.about)  # not what it is itself
    mine = tuple(f"My {thing}" for thing in things_in(rest)[:3])
    wanted = tuple(f"{_article(thing).capitalize()} {thing} is" for thing in things_in(persona.intention)[:2])
    return (*mine, *wanted)


def _last_thing(scene: Scene) -> str:
    return _thing_of(scene.last, scene) if scene.last and scene.last.speaker != scene.host else ""


def _thing_of(line: Line, scene: Scene) -> str:
    """What a line speaks of, the freshest thing in it; "" when the table has heard too much of it."""
    before = [content_words(other.text) for other in scene.lines if other is not line]
    worn = {thing: sum(bool(content_words(thing) & heard) for heard in before) for thing in _things(line.text, scene)}
    freshest = min(worn, key=lambda thing: worn[thing], default="")
    return freshest if worn.get(freshest, 0) <= _WORN else ""


def _things(text: str, scene: Scene) -> tuple[str, ...]:
    return things_in(text, scene.names)


def _recall(scene: Scene, n: int) -> str:
    """An opening that takes up something remembered of a person who is not the last speaker."""
    last = scene.last.speaker if scene.last else ""
    found = [match for memory in scene.memories if (match := _MEMORY.match(memory)) and match["who"] != last]
    if not found:
        return ""
    match = found[n % len(found)]
    recalls = _unused(tuple(_filled(recall, match["who"], match["thing"]) for recall in _RECALLS), scene)
    return recalls[n % len(recalls)] if recalls else ""


def _thought_of(scene: Scene) -> tuple[str, str] | None:
    """Of whom to think and of which thing: not always of the last speaker, who is the same in every round."""
    heard = scene.heard
    if not heard:
        return None
    line = heard[-1 - (len(scene.own) + 1) % len(heard)]
    thing = next(iter(_things(line.text, scene)), "")
    return (line.speaker, thing) if thing else None


def small_thought_request(scene: Scene, seed: int) -> Request | None:
    """Asks a small model what its persona privately thinks of somebody; None when nothing stood out.

    It shares its beginning with `small_request`, so that the prompt cache serves both.
    """
    subject = _thought_of(scene)
    if subject is None:
        return None
    who, thing = subject
    ask = f"{who} speaks of the {thing}. What do you secretly think of {who}?"
    messages = (*_sample_messages(scene.persona), user(ask), assistant(f"I think {who}"))
    sampling = _SMALL.model_copy(update={"seed": _mixed(scene, seed), "max_tokens": 32})
    return Request(system=_small_system(scene), messages=messages, sampling=sampling)


def thought(scene: Scene, text: str = "") -> str:
    """The private memory to keep of what was last heard: "Basho's pond: I think Basho ..."; "" when nothing stood out.

    `text` is what the small model thought, with its opening. When nothing of it is usable, the memory is made from
    what was heard and from what the persona wants.
    """
    subject = _thought_of(scene)
    if subject is None:
        return ""
    told = clean(text, scene, 1)
    if blemishes(told, scene):
        aim = re.sub(r"\byour\b", "my", scene.persona.intention.rstrip("."))
        told = f"I will come back to it if I am to {aim}." if aim else "I will come back to it."
    return f"{subject[0]}'s {subject[1]}: {told}"


def thought_request(scene: Scene, seed: int | None = None) -> Request:
    """Asks a large model for one private sentence about what was just said."""
    base = large_request(scene, seed)
    ask = "(Before you speak: what do you privately make of what was just said? One sentence, to yourself.)"
    *earlier, final = base.messages
    parts = (*final.parts[:-1], *user(ask).parts)
    return Request(base.system, (*earlier, Message(role="user", parts=parts)), (), base.sampling)


_CUES = {
    "open": "You are the host. Welcome the guests and put tonight's question to them.",
    "toast": "You are the host. Close the evening with a toast that takes up what the guests said.",
    None: "It is your turn.",
}


def large_request(scene: Scene, seed: int | None = None) -> Request:
    """A request for a large model. While a dinner goes on, system and earlier messages stay as they are, so that a
    prompt cache holds them; memories and the cue come last because they change."""
    persona = scene.persona
    system = [f"You are {persona.name}, {persona.about.rstrip('.')}."]
    if scene.others:
        system.append(
            f"You are at a dinner party with {_list(scene.others)}. The question of the evening: {scene.topic}"
        )
    if persona.intention:
        system.append(f"What you privately want, and never say outright: to {persona.intention.rstrip('.')}.")
    if persona.samples:
        system.append("How you sound: " + " / ".join(persona.samples))
    system.append(
        "Answer with what you say aloud and nothing else: one to three sentences in your own voice, without "
        "quotation marks, stage directions, lists or your name in front. Never speak for anybody else. Take up "
        "what was just said, disagree where you would, call people by name now and then, and say something that "
        "was not said before."
    )
    messages: list[Message] = []
    heard: list[Line] = []
    for line in scene.lines:
        if line.speaker != persona.name:
            heard.append(line)
            continue
        messages += user(_heard(heard)), assistant(line.text)
        heard = []
    remembered = ("What you remember privately: " + " ".join(scene.memories) + "\n") if scene.memories else ""
    prompt = f"({remembered}{_CUES[scene.cue]})"
    messages.append(Message(role="user", parts=(*user(_heard(heard)).parts, *user(prompt).parts)))
    sampling = _LARGE.model_copy(update={"seed": seed})
    return Request(system="\n".join(system), messages=tuple(messages), sampling=sampling)


def _heard(lines: list[Line]) -> str:
    return "\n".join(f"{line.speaker}: {line.text}" for line in lines) or "(You sit down at the table.)"


_WELCOMES = (
    "Welcome, {guests}. The soup is hot, so I will ask while you eat: {topic}",
    "{guests}, I am glad to see you at my table. Here is the question for tonight: {topic}",
    "Sit down, {guests}; the bread is still warm. Tell me one thing before it is gone: {topic}",
)


def welcome(scene: Scene, seed: int) -> str:
    """The host's first words, without a model: the guests by name and the topic."""
    topic = scene.topic if re.search(r"[.!?]$", scene.topic.strip()) else scene.topic.strip() + "."
    return _WELCOMES[seed % len(_WELCOMES)].format(guests=_list(scene.others), topic=topic)


def toast(scene: Scene) -> str:
    """The host's last words, without a model: a glass to one thing that each guest spoke of."""
    to: list[str] = []
    taken: set[str] = set()
    for name in scene.others:
        said = " ".join(line.text for line in scene.lines if line.speaker == name)
        thing = next((thing for thing in _things(said, scene) if thing not in taken), "")
        taken.add(thing)
        to.append(f"{name}'s {thing}" if thing else name)
    return f"Raise your glasses: to {_list(tuple(to))}." if to else "Raise your glasses, and good night."


def _list(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else ""
