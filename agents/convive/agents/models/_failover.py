"""A list of models of which the first that can answers."""

import inspect
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

from convive.agents.models._errors import ModelAnswerBroken, ModelError
from convive.agents.models._model import Answer, ArgumentsDelta, Delta, Model, Request, holds_to_schema

_log = logging.getLogger("convive.agents")

Item = Delta | Answer
OnFailure = Callable[[Model, ModelError], object]
"""Told of each model that gave no answer, before the next one is asked; sync or async."""


class NoModelAnswered(ModelError):
    """Each model of a list was asked, and none answered. `failures` holds what each said, in the order of asking.

    `transient` when asking again later may help with one of them; otherwise `mendable`.
    """

    def __init__(self, failures: Sequence[ModelError]) -> None:
        self.failures = tuple(failures)
        self.transient = any(error.transient for error in failures)
        self.mendable = not self.transient and any(error.mendable for error in failures)
        said = " ".join(f"({place}) {error}" for place, error in enumerate(failures, 1))
        super().__init__(f"{len(failures)} models were asked and none answered: {said}")


class FailoverModel:
    """Models in the order in which they are asked; of those with the same name, the first.

    The next is asked when one fails in a way that is transient or mendable and has not shown a delta; behind a delta
    its error is raised, because nobody should hear two voices in one answer. Arguments of calls are no voice: those
    before the first words, or the answer, are shown together with these. Any other error is raised at once, and a
    cancellation ends the asking. Each request starts with the first model again. `name` joins the names with `|`, and
    the `model` of an answer is `provider/model` of the one that gave it.

    `structured_output` only if all of them hold answers to a schema: else the request says in words what is wanted.

    The models belong to whoever made them: closing is not done here. Raises ValueError for an empty list.
    """

    def __init__(self, models: Iterable[Model], *, on_failure: OnFailure | None = None) -> None:
        first: dict[str, Model] = {}
        for model in models:
            first.setdefault(model.name, model)
        if not first:
            raise ValueError("a failover needs a model, better two")
        self.models = tuple(first.values())
        self.structured_output = all(map(holds_to_schema, self.models))
        self._on_failure = on_failure

    @property
    def name(self) -> str:
        return "|".join(model.name for model in self.models)

    def __repr__(self) -> str:
        return f"FailoverModel({self.name!r})"

    def telling(self, on_failure: OnFailure) -> "FailoverModel":
        """The same models, with `on_failure` told as well as whoever was."""
        before = self._on_failure

        async def both(model: Model, error: ModelError) -> None:
            await _tell(before, model, error)
            await _tell(on_failure, model, error)

        return FailoverModel(self.models, on_failure=both)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Item]]:
        """Ask, as `Model.stream` says. Entering waits for the first words, or the answer, of whoever answers.

        Raises what the one model that was asked raised, or NoModelAnswered when there were more.
        """
        held, model, begun, rest = await self._first_to_answer(request)
        async with held, aclosing(_items(model, begun, rest)) as items:
            yield items

    async def _first_to_answer(self, request: Request) -> tuple[AsyncExitStack, Model, list[Item], AsyncIterator[Item]]:
        failures: list[ModelError] = []
        for model in self.models:
            try:
                async with AsyncExitStack() as opened:
                    items = aiter(await opened.enter_async_context(model.stream(request)))
                    begun: list[Item] = []
                    async for item in items:
                        begun.append(item)
                        if not isinstance(item, ArgumentsDelta):
                            return opened.pop_all(), model, begun, items
                    raise ModelAnswerBroken(f"{model.name} ended its stream without an answer.")
            except ModelError as error:
                failures.append(error)
                await _tell(self._on_failure, model, error)
                if not (error.transient or error.mendable):
                    break
                _log.info("%s gave no answer: %s", model.name, error)
        if len(failures) == 1:
            raise failures[0]
        raise NoModelAnswered(failures) from failures[-1]


def telling(model: Model, on_failure: OnFailure) -> Model:
    """The model; where it is several in order, with `on_failure` told of those that gave no answer."""
    tells: Callable[[OnFailure], Model] | None = getattr(model, "telling", None)
    return model if tells is None else tells(on_failure)


def first_that_can(models: Iterable[Model]) -> Model:
    """One model that asks these in order until one answers; of one model, that itself. ValueError without any."""
    given = tuple(models)
    if len(given) == 1:
        return given[0]
    asked = FailoverModel(given)
    return asked.models[0] if len(asked.models) == 1 else asked


async def _tell(on_failure: OnFailure | None, model: Model, error: ModelError) -> None:
    done = None if on_failure is None else on_failure(model, error)
    if inspect.isawaitable(done):
        await done


async def _items(model: Model, begun: Iterable[Item], rest: AsyncIterator[Item]) -> AsyncGenerator[Item]:
    for item in begun:
        yield _signed(model, item)
    async for item in rest:
        yield _signed(model, item)


def _signed(model: Model, item: Item) -> Item:
    if not isinstance(item, Answer) or isinstance(model, FailoverModel):
        return item
    provider = model.name.partition("/")[0]
    said = item.model or model.name
    full = said if said.startswith(f"{provider}/") else f"{provider}/{said}"
    return item.model_copy(update={"model": full})
