"""`ReplayModel`: what models said once, said again, from a run's journal."""

from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager

from convive.agents.journal._journal import ModelAnswered, RunStarted, journal_event_of
from convive.agents.models._model import Answer, Delta, Request
from convive.agents.models._scripted import NO_PAUSE, Pause, ScriptedModel, UnexpectedRequest
from convive.bus import Log


class ReplayModel:
    """Answers the n-th request with the n-th recorded answer, word by word; `requests` holds what it was asked.

    It only counts: another prompt gets the same answer (`redrive` compares prompts). One request too many raises
    UnexpectedRequest, and `left` says how many answers nobody asked for. The usage is the recorded one, and nothing is
    billed. For requests one after the other, as one run makes them.
    """

    def __init__(
        self,
        recorded: Iterable[ModelAnswered | Answer],
        *,
        name: str = "replay/journal",
        pause: Pause = NO_PAUSE,
    ) -> None:
        answers = [_answer(each) for each in recorded]
        self.requests: list[Request] = []
        self._name = name
        self._recorded = len(answers)
        self._script = ScriptedModel(answers, name=name, pause=pause)

    @classmethod
    async def read(cls, log: Log, journal: str) -> "ReplayModel":
        """The model that answered in a journal, such as that at `place.journal(run)`; its name is `replay/` and theirs.

        With a subject that matches several journals, the answers are in the order of the log: right for sub-agents that
        ran one after the other. Raises LookupError for a journal that is not there, BadRecord for a damaged one, and
        errors of the bus.
        """
        answers: list[ModelAnswered] = []
        started: RunStarted | None = None
        async with log.read(journal) as records:
            async for record in records:
                event = journal_event_of(record)
                if isinstance(event, ModelAnswered):
                    answers.append(event)
                elif isinstance(event, RunStarted):
                    started = started or event
        if started is None:
            raise LookupError(f"there is no run's journal at {journal!r}")
        return cls(answers, name=f"replay/{started.model}")

    @property
    def name(self) -> str:
        return self._name

    @property
    def left(self) -> int:
        """How many recorded answers were not asked for yet."""
        return max(0, self._recorded - len(self.requests))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Delta | Answer]]:
        """Answer, as `Model.stream` says. Raises UnexpectedRequest when the recorded answers are used up."""
        self.requests.append(request)
        number = len(self.requests)
        if number > self._recorded:
            asked = request.messages[-1].text if request.messages else ""
            raise UnexpectedRequest(
                f"{self._name} holds {self._recorded} recorded answers and was asked for number {number}: "
                f"{asked[:200]!r}. This run goes on longer than the recorded one: its input, its tools or its limits "
                "differ, or the recording was cut short."
            )
        async with self._script.stream(request) as items:
            yield items


def _answer(recorded: ModelAnswered | Answer) -> Answer:
    if isinstance(recorded, Answer):
        return recorded
    return Answer(parts=recorded.parts, stop_reason=recorded.stop_reason, usage=recorded.usage, model=recorded.model)
