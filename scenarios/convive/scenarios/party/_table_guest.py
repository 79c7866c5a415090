"""A guest at the table: takes its turns with a model, speaks in its persona's voice, and keeps its thoughts."""

from dataclasses import replace

from convive.agents import (
    Agent,
    AgentResult,
    AskContext,
    Limits,
    Model,
    Pass,
    Refine,
    Request,
    Retry,
    Sampling,
    Say,
    Turn,
    first_seen,
    run_in_turn,
)
from convive.bus import HOST, Chair, RunContext, SeatName, derive_run_id
from convive.scenarios.party._scene import Cue, Line, Persona, Scene
from convive.scenarios.party._speech import best, blemishes, faults, unframed
from convive.scenarios.party._voice import (
    large_request,
    opening,
    small_limit,
    small_request,
    small_thought_request,
    thought,
    thought_request,
)

INTENTION, THOUGHT = "intention", "thought"
"""Kinds of memories."""

_REASKS = 2
"""How often a model is asked again when what it said is of no use."""

_SEES = {"small": 16, "local": 40, "large": 400}
"""How many utterances a turn looks back on, at least: a local model's context is short, and reading it takes time."""


class TableGuest:
    """A `Participant` with a persona. One object sits in one seat; its state is the bus and its memory."""

    def __init__(self, persona: Persona, topic: str, model: Model, seed: int) -> None:
        self._persona = persona
        self._topic = topic
        self._small = is_small(model)
        self._sees = _SEES["small" if self._small else "local" if model.name.startswith("local/") else "large"]
        self._seed = seed
        self._speaker = Agent(persona.name, model=model)
        self._thinker = Agent(f"{persona.name} thinks", model=model)

    async def take_turn(self, turn: Turn) -> Say | Pass:
        """Find words, then think about what was heard: speech and thought commit together."""
        scene = self._scene(turn)
        seed = self._seed + turn.grant.turn
        result = await self._ask(self._speaker, turn, turn.run, self._speech(scene, seed), self._refine(scene, seed))
        if result.error is not None:
            return Pass(result.error.message)
        if not result.text:
            return Pass("found no words")
        await self._think(turn, scene, seed)
        return Say(result.text)

    def _scene(self, turn: Turn) -> Scene:
        names = _Names(turn)
        heard = turn.heard[first_seen(len(turn.heard), self._sees) :]
        memories = [memory.event for memory in turn.memories]
        intention = next((memory.text for memory in memories if memory.kind == INTENTION), "")
        beside = [utterance.seat for utterance in heard if utterance.turn is None]
        others = dict.fromkeys([*(chair.seat for chair in turn.floor.seats), *beside])
        return Scene(
            replace(self._persona, intention=intention or self._persona.intention),
            self._topic,
            tuple(Line(names.of(utterance.seat), utterance.text) for utterance in heard),
            tuple(names.of(seat) for seat in others if seat not in (HOST, turn.seat)),
            tuple(memory.text for memory in memories if memory.kind == THOUGHT)[-self._sees :],
            _cue(turn.cue),
            names.of(HOST),
        )

    def _speech(self, scene: Scene, seed: int) -> Request:
        return small_request(scene, seed) if self._small else large_request(scene, seed)

    def _refine(self, scene: Scene, seed: int) -> Refine:
        """Keeps what can be said. A small model is asked again when it said nothing of use; the best try stands.

        Any other model is taken at its word, and asked again only when there is none.
        """
        if not self._small:
            return lambda text: unframed(text, scene) or Retry("nothing was said", fallback="")
        request = self._speech(scene, seed)
        start = opening(request)
        limit = small_limit(request)
        tries: list[str] = []

        def refine(text: str) -> str | Retry:
            tries.append(f"{start}{text}")
            said = best(tries, scene, limit)
            # The last try need not shine, it must only do.
            judge = faults if len(tries) <= _REASKS else blemishes
            wrong = judge(said, scene) if said else ("nothing usable",)
            return Retry("; ".join(wrong), fallback=said) if wrong else said

        return refine

    async def _think(self, turn: Turn, scene: Scene, seed: int) -> None:
        request = small_thought_request(scene, seed) if self._small else thought_request(scene, seed)
        if request is None or scene.cue is not None:
            return
        run = turn.run.child(derive_run_id(turn.run.run_id, "thought"))
        result = await self._ask(self._thinker, turn, run, request)
        if result.status != "completed":
            return  # a guest may speak without a thought; what it said must not be lost for it
        text = f"{opening(request)}{result.text}"
        kept = thought(scene, text) if self._small else " ".join(result.text.split())
        if kept:
            turn.remember(kept, THOUGHT)

    async def _ask(
        self, agent: Agent, turn: Turn, run: RunContext, request: Request, refine: Refine | None = None
    ) -> AgentResult:
        def sampling(context: AskContext) -> Sampling:
            seed = request.sampling.seed
            return request.sampling.model_copy(update={"seed": None if seed is None else seed + context.trip})

        return await run_in_turn(
            agent,
            turn,
            run=run,
            history=request.messages,
            instructions=request.system,
            sampling=sampling,
            refine=refine,
            limits=Limits(trips=1 + _REASKS, reasks=_REASKS),
        )


class _Names:
    """Display names of those at the table; who speaks up from beside it is called by the name of the seat."""

    def __init__(self, turn: Turn) -> None:
        self._shown = {chair.seat: chair.shown for chair in turn.floor.seats}

    def of(self, seat: SeatName) -> str:
        return self._shown.get(seat) or Chair(seat=seat).shown


def is_small(model: Model) -> bool:
    """Whether a model needs its part cut up for it: the one that comes along does, a scripted one is above that."""
    return bool(getattr(model, "small", False))


def _cue(cue: str | None) -> Cue:
    return "open" if cue == "open" else "toast" if cue == "toast" else None
