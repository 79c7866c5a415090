"""`fake_models()`: every model of a program replaced by a script, for tests without a key."""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

from convive.agents.models._model import Model, Request
from convive.agents.models._models import Models, split_model, standing_in
from convive.agents.models._providers import own_providers
from convive.agents.models._scripted import NO_PAUSE, Line, Pause, Scripted, ScriptedModel, UnexpectedRequest

Script = Sequence[Scripted] | Callable[[Request], Line]
"""What a scripted model answers: see `ScriptedModel`."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, and the model that it was for."""

    model: str
    request: Request

    @property
    def text(self) -> str:
        """The prose of the request's last message; empty where that holds results of tools only."""
        return self.request.messages[-1].text if self.request.messages else ""


class FakeModels(Models):
    """Models of every provider, also of unknown ones, that answer from a script. `asked` holds what they were asked.

    One request more than a script has answers raises UnexpectedRequest, and is kept in `unexpected`.
    """

    def __init__(
        self, script: Script = (), by_model: Mapping[str, Script] | None = None, *, pause: Pause = NO_PAUSE
    ) -> None:
        super().__init__({})
        self._pause = pause
        self.asked: list[Asked] = []
        self.unexpected: list[UnexpectedRequest] = []
        self._shared = _Answers(script)
        self._own = {_checked(name): _Answers(each) for name, each in (by_model or {}).items()}

    @property
    def left(self) -> int:
        """How many scripted answers nobody has asked for yet."""
        return sum(len(answers.queue) for answers in (self._shared, *self._own.values()))

    def respond(self, *answers: Scripted, model: str | None = None) -> None:
        """Add answers behind those that are still there, for one model, or for all without a script of their own."""
        script = self._shared if model is None else self._own.setdefault(_checked(model), _Answers(()))
        script.queue.extend(answers)

    def resolve(self, name: str) -> Model:
        """The scripted model of that name. Raises UnknownModel for a name that is not `provider/model`."""
        if name not in self._made:
            self._made[name] = ScriptedModel(partial(self._answer, _checked(name)), name=name, pause=self._pause)
        return self._made[name]

    def _answer(self, name: str, request: Request) -> Line:
        asked = Asked(name, request)
        self.asked.append(asked)
        script = self._own.get(name, self._shared)
        if script.queue:
            scripted = script.queue.popleft()
            if isinstance(scripted, Exception):
                raise scripted
            return scripted(request) if callable(scripted) else scripted
        if script.function is not None:
            return script.function(request)
        problem = UnexpectedRequest(
            f"{name} was asked and the fake has no answer left for it; this was request {len(self.asked)}: "
            f"{asked.text[:200]!r}. Give fake_models() one answer for each request."
        )
        self.unexpected.append(problem)
        raise problem


class _Answers:
    """A list of answers that is used up, or a function that never is."""

    def __init__(self, script: Script) -> None:
        if isinstance(script, str):
            raise TypeError(f"a script is a list of answers: [{script[:40]!r}]")
        self.queue = deque[Scripted](() if callable(script) else script)
        self.function = None if isinstance(script, Sequence) else script


@contextmanager
def fake_models(
    script: Script = (), by_model: Mapping[str, Script] | None = None, *, pause: Pause = NO_PAUSE
) -> Generator[FakeModels]:
    """Within the block, every `provider/model` that a program looks up answers from a script; nothing goes out.

    >>> import anyio
    >>> from convive.agents import Agent
    >>> from convive.agents.testing import fake_models
    >>> async def main() -> None:
    ...     with fake_models(["It is under the hat."]) as fake:
    ...         result = await Agent("finder", model="anthropic/claude-sonnet-4-6").prompt("Where is it?")
    ...         print(result.text)
    ...         print([(asked.model, asked.text) for asked in fake.asked])
    >>> anyio.run(main)
    It is under the hat.
    [('anthropic/claude-sonnet-4-6', 'Where is it?')]

    `script`: a list of answers, given out in the order of the requests whichever model is asked, or a function of the
    request. `by_model`: scripts of their own for some `provider/model`. An answer is a text, a tuple of texts
    (streamed in those pieces), an `Answer`, a function of the request, or an exception to raise. `pause` is awaited
    before each piece of text.

    Strict: a request without an answer fails with UnexpectedRequest, and where something caught that (a tool that runs
    an agent, a seat), leaving the block raises it again; `fake.unexpected.clear()` forgives. Nothing is raised for
    answers that are left over: look at `fake.left`.

    It works through `default_models()`, in this task and those that it starts, so give `models=fake` to an agent that
    runs elsewhere, or whose provider is not installed. An agent with a model object or a `models=` of its own keeps
    that.
    """
    fake = FakeModels(script, by_model, pause=pause)
    with standing_in(fake):
        yield fake
    if fake.unexpected:
        raise fake.unexpected[0]


def _checked(name: str) -> str:
    provider, slash, _ = name.partition("/")
    split_model(name, (*own_providers(), provider) if provider and slash else own_providers())
    return name
