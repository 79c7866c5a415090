"""`scripted/...`: a model without a model, for tests, for demonstrations, and when nothing better is there."""

import itertools
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from hashlib import sha256

import anyio.lowlevel

from convive.agents.models._errors import UnknownModel
from convive.agents.models._messages import Text, Thinking, ToolUse
from convive.agents.models._model import Answer, ArgumentsDelta, Delta, Request, TextDelta, ThinkingDelta
from convive.agents.models._schema import json_of

Line = str | tuple[str, ...] | Answer
"""A text, which is streamed word by word; a text in the pieces in which it is to be streamed; or a whole answer."""

Scripted = Line | Callable[[Request], Line] | Exception


Pause = Callable[[], Awaitable[object]]
NO_PAUSE: Pause = anyio.lowlevel.checkpoint_if_cancelled


class UnexpectedRequest(AssertionError):
    """A strict script was asked once more than it has answers."""


class ScriptedModel:
    """Answers from a script, word by word, without I/O; `requests` holds what it was asked, or the last `keep` of it.

    `script` is a list of answers, one to a request (a text, a tuple of texts that is streamed in those pieces, an
    Answer, a function of the request, or an exception that is raised on entering the stream), or one function that
    answers any number of requests. `pause` is awaited before each delta of words:
    `partial(anyio.sleep, 0.1)` makes it slow.
    """

    def __init__(
        self,
        script: Sequence[Scripted] | Callable[[Request], Line],
        *,
        name: str = "scripted/test",
        keep: int | None = None,
        pause: Pause = NO_PAUSE,
    ) -> None:
        if isinstance(script, str) or not (callable(script) or isinstance(script, Sequence)):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a script is a list of answers, or a function, not {type(script).__name__}.")
        self.requests: list[Request] = []
        self._asked = 0
        self._keep = keep
        self._script = script
        self._name = name
        self._pause = pause

    @property
    def name(self) -> str:
        return self._name

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Delta | Answer]]:
        """Answer, as `Model.stream` says. Raises UnexpectedRequest when a list of answers is used up."""
        self._asked += 1
        number = self._asked
        self.requests.append(request)
        if self._keep is not None:
            del self.requests[: max(0, len(self.requests) - self._keep)]
        await anyio.lowlevel.checkpoint()
        line = self._line(number, request)
        async with aclosing(self._items(line)) as items:
            yield items

    def _line(self, number: int, request: Request) -> Line:
        if callable(self._script):
            return self._script(request)
        if number > len(self._script):
            asked = request.messages[-1].text if request.messages else ""
            raise UnexpectedRequest(
                f"{self._name} has {len(self._script)} answers and was asked for number {number}: {asked[:200]!r}"
            )
        scripted = self._script[number - 1]
        if isinstance(scripted, Exception):
            raise scripted
        return scripted(request) if callable(scripted) else scripted

    async def _items(self, line: Line) -> AsyncGenerator[Delta | Answer]:
        answer, pieces = _answer(line), line if isinstance(line, tuple) else None
        places = itertools.count()
        for part in answer.parts:
            if isinstance(part, ToolUse):
                place = next(places)
                written = part.arguments if isinstance(part.arguments, str) else json_of(part.arguments)
                for piece in ("", *_words(written)):
                    yield ArgumentsDelta(place, part.id, part.name, piece)
            elif isinstance(part, Text):
                for piece in _words(part.text) if pieces is None else pieces:
                    await self._pause()
                    yield TextDelta(piece)
            elif isinstance(part, Thinking):
                for word in _words(part.thinking):
                    await self._pause()
                    yield ThinkingDelta(word)
        yield answer if answer.model else answer.model_copy(update={"model": self._name})


def _answer(line: Line) -> Answer:
    if isinstance(line, Answer):
        return line
    return Answer(parts=(Text(text=line if isinstance(line, str) else "".join(line)),), stop_reason="end")


def scripted_model(script: str) -> ScriptedModel:
    """The shipped script of that name: "party", which keeps no requests. Raises UnknownModel for any other."""
    if script != "party":
        raise UnknownModel(f'there is no script {script!r}. Nothing was asked. Use "scripted/party".')
    return ScriptedModel(party_line, name="scripted/party", keep=0)


def party_line(request: Request) -> str:
    """Small talk that takes up the last speaker and the topic, chosen by the request's content alone.

    It reads lines of the form `Name: text` in the messages as speech, "topic: ..." and "the question of the
    evening: ..." as the topic, and "You are NAME," in the system prompt as its own name; asked for a toast, it
    gives one. It understands nothing: it is a stand-in and sounds like one.
    """
    messages = "\n".join(message.text for message in request.messages)
    everything = f"{request.system}\n{messages}"
    subject = _found(_TOPIC, everything) or "this evening"
    own = _found(_OWN_NAME, request.system).lower()
    spoken = [(name, text) for name, text in _SPEECH.findall(messages) if name.lower() not in {own, *_LABELS}]
    name, said = spoken[-1] if spoken else ("friends", "")
    choices = _REPLIES if spoken else _OPENINGS
    if request.messages and "toast" in request.messages[-1].text.lower():
        choices = _TOASTS
    topic = subject if len(subject.split()) <= _SHORT_TOPIC else f"that {_last_word(subject)}"
    words = {"subject": subject, "topic": topic, "name": name, "word": _longest_word(said) or topic}
    first = int.from_bytes(sha256(everything.encode()).digest()[:4], "big") % len(choices)
    ordered = [choice.format_map(words) for choice in choices[first:] + choices[:first]]
    # Most lines end in their fixed part: one whose end was heard already makes way for the next.
    return next((line for line in ordered if line[-20:] not in messages), ordered[0])


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+\s*?(?=\s|$)|\s+", text)


def _found(pattern: re.Pattern[str], text: str) -> str:
    match = pattern.search(text)
    return match[1].strip() if match else ""


def _longest_word(text: str) -> str:
    return max(reversed(re.findall(r"[^\W\d_]{5,}", text)), key=len, default="")


def _last_word(text: str) -> str:
    """In English the noun that a short question is about tends to stand last."""
    found: list[str] = re.findall(r"[^\W\d_]{4,}", text)
    return found[-1] if found else ""


_SHORT_TOPIC = 4
_TOPIC = re.compile(
    r"\b(?:topic|question of the evening)\b(?:[^\n:]{0,40}?\bis\b|[^\n:]{0,40}?:)\s*[\"“']?([^\n\"”.]{2,120})",
    re.IGNORECASE,
)
_OWN_NAME = re.compile(r"\byou are (?!(?:an?|the|at|in|one)\b)([^,.:\n]{1,40})", re.IGNORECASE)
_SPEECH = re.compile(r"^([^\W\d_][\w'-]*(?: [\w'-]+){0,2}): +(\S.*)$", re.MULTILINE)
_LABELS = frozenset({"topic", "guests", "note", "notes", "memory", "memories", "persona", "rules", "turn"})
_OPENINGS: tuple[str, ...] = (
    "Good evening, everyone. One thing has been on my mind all day: {subject}",
    "Sit down, the soup is hot. Nobody gets any before we have talked about this: {subject}",
    "Welcome, all of you. I will not make a speech, I will only give you the subject: {subject}",
)
_REPLIES: tuple[str, ...] = (
    "{name}, you say {word}, and about {topic} I hear my grandmother with her very large spoon.",
    "I would not have put it like that, {name}. With {topic}, it is the small things that decide.",
    "{name} is half right, as usual. The other half of {topic} happens in kitchens.",
    "That is kind of you, {name}. Still, {topic} will look different after a second glass.",
    "Wait, {name}, once more: {word}. For me that is nearly all there is to {topic} in a nutshell.",
    "{name}, I tried that once. As for {topic}, I mostly learned something about myself.",
    "Nobody agrees with me, {name}, but {topic} was always better when it rained.",
    "{name}, when somebody asks me about {topic}, I will quote you and take the credit.",
    "My neighbour swears the opposite, {name}. On {topic}, though, my neighbour is often wrong.",
    "Let me be plain, {name}: {word} frightens me, and {topic} could do with a little fright.",
)
_TOASTS: tuple[str, ...] = (
    "To {name}, to {topic}, and to everyone who stayed until the candles went out. Good night!",
    "Raise your glasses: we settled nothing about {topic}, and we did it beautifully. Good health!",
    "To {topic}, and to {name} for the last word but one. Thank you all for coming!",
)
