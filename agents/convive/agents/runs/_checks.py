"""What an agent and a run are given by mistake: refused at once, in words, before anything happens."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast, get_args

from convive.agents.journal._journal import Place
from convive.agents.models._messages import Message
from convive.agents.models._model import Sampling
from convive.agents.models._schema import check_number
from convive.agents.runs._audience import Observers, On
from convive.agents.runs._events import EventName
from convive.agents.runs._frame import OnCancel
from convive.agents.runs._limits import Limits
from convive.agents.runs._middleware import Middleware
from convive.bus import Conversation, RunContext

_EVENTS = frozenset(get_args(EventName))


def _is_model(value: Any) -> bool:
    return isinstance(value, str) or (hasattr(value, "name") and callable(getattr(value, "stream", None)))


def _list_of(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def check(value: Any) -> bool:
        return isinstance(value, Sequence) and not isinstance(value, str) and all(map(fits, cast("list[Any]", value)))

    return check


def _is_handlers(value: Any) -> bool:
    return callable(value) or _list_of(callable)(value)


_KINDS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "input": (lambda it: it is None or isinstance(it, str), "a text"),
    "model": (
        lambda it: it is None or _is_model(it) or _list_of(_is_model)(it),
        "a name such as 'provider/model', a model, or a list of those",
    ),
    "instructions": (lambda it: isinstance(it, str) or callable(it), "a text, or a function that gives one"),
    "tools": (
        lambda it: it is None or (isinstance(it, Iterable) and not isinstance(it, str)),
        "a list of tools and typed functions",
    ),
    "stop_when": (
        lambda it: it is None or callable(it) or _list_of(callable)(it),
        "a condition such as step_count_is(8), or a list of them",
    ),
    "limits": (lambda it: isinstance(it, Limits), "Limits(...)"),
    "sampling": (lambda it: isinstance(it, Sampling) or callable(it), "Sampling(...), or a function that gives it"),
    "refine": (lambda it: it is None or callable(it), "a function"),
    "parallel_tools": (lambda it: isinstance(it, bool), "True or False"),
    "observers": (lambda it: it is None or isinstance(it, Observers), "Observers()"),
    "middleware": (
        lambda it: it is None or _list_of(lambda each: isinstance(each, Middleware))(it),
        "a list of Middleware objects",
    ),
    "on": (lambda it: it is None or isinstance(it, Mapping), "handlers by the name of the event"),
    "history": (
        _list_of(lambda each: isinstance(each, Message | Mapping)),
        "messages, such as the `messages` of a result",
    ),
    "session_id": (lambda it: it is None or isinstance(it, str), "a text"),
    "run": (lambda it: it is None or isinstance(it, RunContext), "a RunContext"),
    "on_cancel": (lambda it: it in get_args(OnCancel), '"record" or "leave"'),
    "fresh": (lambda it: isinstance(it, bool), "True or False"),
    "place": (
        lambda it: it is None or isinstance(it, Place | Conversation),
        'Place(log, subject), or a conversation: await bus.conversation("...")',
    ),
}


def check_options(options: Mapping[str, Any]) -> None:
    """Raises TypeError for an option of another type than it takes, ValueError for a number that cannot be meant."""
    for name, value in options.items():
        fits, what = _KINDS.get(name, (_anything, ""))
        if not fits(value):
            raise TypeError(f"{name}= takes {what}, not {_named(value)}.")
    check_number("repair", options.get("repair", 0), whole=True)
    if options.get("expires_s") is not None:
        check_number("expires_s", options["expires_s"], signed=True)
    on: On = options.get("on") or {}
    for event, handlers in on.items():
        check_handler(event, handlers)


def check_handler(name: object, handlers: object) -> None:
    """Raises TypeError for what could not handle an event, or for one that never happens."""
    if name not in _EVENTS:
        raise TypeError(f"there is no event {name!r}, so its handler would never be told. There are: {_known()}.")
    if not _is_handlers(handlers):
        raise TypeError(f"the handler of {name} is a function, or a list of them, not {_named(handlers)}.")


def _known() -> str:
    return ", ".join(get_args(EventName))


def _anything(value: object) -> bool:
    return True


def _named(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, list | tuple):
        kinds = dict.fromkeys(_named(each) for each in cast("Sequence[object]", value))
        return f"a {kind} of {', '.join(kinds) or 'nothing'}"
    return kind
