"""Names of models (`provider/model`) and what they stand for."""

from collections.abc import Generator, Iterable, Mapping
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Protocol, runtime_checkable

from convive.agents.models._errors import UnknownModel
from convive.agents.models._failover import first_that_can
from convive.agents.models._model import Model
from convive.agents.models._providers import Factory, installed_provider, installed_providers, own_providers

ANTHROPIC_DEFAULT = "anthropic/claude-sonnet-4-6"
LOCAL_DEFAULT = "local/smollm2-135m"
SCRIPTED_DEFAULT = "scripted/party"

_default_model: str | None = None


@runtime_checkable
class _Checkable(Protocol):
    async def check(self) -> None: ...


@runtime_checkable
class _Closable(Protocol):
    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """A model's name, and in a few words why it was chosen."""

    name: str
    why: str


def choose_model(explicit: str | None, env: Mapping[str, str], local_available: bool) -> Choice:
    """Which model answers when nothing more exact was said; the first that applies, in the order below.

    An empty name or variable counts as absent. The name is not checked: `Models.resolve` does that.
    """
    if explicit:
        return Choice(explicit, "asked for")
    if _default_model:
        return Choice(_default_model, "set_default_model said so")
    if name := env.get("CONVIVE_MODEL"):
        return Choice(name, "CONVIVE_MODEL is set")
    if env.get("ANTHROPIC_API_KEY"):
        return Choice(ANTHROPIC_DEFAULT, "ANTHROPIC_API_KEY is set")
    if local_available:
        return Choice(LOCAL_DEFAULT, "no API key is set, so it runs here")
    return Choice(SCRIPTED_DEFAULT, "no key, no local model: canned lines")


def set_default_model(name: str | None) -> None:
    """The model of everything in this process that names none, before `CONVIVE_MODEL` and keys are looked at. None:
    as it was before. Raises UnknownModel for a name without a provider that is known here."""
    global _default_model
    if name is not None:
        split_model(name)
    _default_model = name


def split_model(name: str, providers: Iterable[str] | None = None) -> tuple[str, str]:
    """Provider and model, split at the first slash; a model's own name may hold more of them.

    Raises UnknownModel, with a suggestion, for a name without a provider, without a model, or with a provider
    that is not one of `providers`; by default these are the shipped, the registered and the installed ones.
    """
    provider, slash, model = name.partition("/")
    known = _with_installed(own_providers(), provider) if providers is None else tuple(providers)
    if slash and provider in known and model:
        return provider, model
    if slash and provider in known:
        problem = f"{name!r} names a provider and no model"
    elif slash and provider and not name.endswith(".gguf"):
        problem = f"there is no provider {provider!r}, which {name!r} asks for"
    else:
        problem = f"{name!r} does not say which provider, as in provider/model"
    guess = _guess(name, known)
    hint = f'Did you mean "{guess}"? ' if guess else ""
    raise UnknownModel(f"{problem}. {hint}The providers are: {', '.join(known)}.")


def _with_installed(providers: Iterable[str], wanted: str) -> tuple[str, ...]:
    """These providers, and where the wanted one is not among them, those of installed packages: finding them costs."""
    known = tuple(providers)
    return known if wanted in known else tuple(dict.fromkeys((*known, *installed_providers())))


def _guess(name: str, providers: tuple[str, ...]) -> str:
    provider, slash, model = name.partition("/")
    close = get_close_matches(provider.lower(), providers, n=1)
    defaults = {"anthropic": ANTHROPIC_DEFAULT, "local": LOCAL_DEFAULT, "scripted": SCRIPTED_DEFAULT}
    if close and slash and model:
        guess = close[0], model
    elif name.endswith(".gguf") or "smollm" in name.lower():
        guess = "local", name
    elif "claude" in name.lower():
        guess = "anthropic", name.rpartition("/")[2]
    elif close:
        guess = close[0], defaults.get(close[0], "/").partition("/")[2]
    elif name == "party":
        guess = "scripted", name
    else:
        return ""
    return "/".join(guess) if guess[0] in providers and guess[1] else ""


class Models:
    """Makes models by name, one object for each name, and closes them all.

    A factory gets the model's part of the name, what follows the first slash. `installed`: behind these factories,
    also find the shipped providers, those of `register_provider`, and those of installed packages (entry points of the
    group `convive.models`).
    """

    def __init__(self, factories: Mapping[str, Factory], *, installed: bool = False) -> None:
        self._factories = dict(factories)
        self._installed = installed
        self._made: dict[str, Model] = {}
        self._stack = AsyncExitStack()

    def resolve(self, name: str) -> Model:
        """The model of that name. Raises UnknownModel, and what the provider's factory raises."""
        if name not in self._made:
            made = self._make(name)
            if isinstance(made, _Closable):
                self._stack.push_async_callback(made.aclose)
            self._made[name] = made
        return self._made[name]

    def resolve_all(self, names: Iterable[str]) -> Model:
        """One model that asks these in order until one answers (`FailoverModel`); with one name, that model itself.

        Raises as `resolve` for each of the names, and ValueError without any.
        """
        return first_that_can([self.resolve(name) for name in dict.fromkeys(names)])

    async def check(self) -> None:
        """Find out what is certain before anybody asks, such as a key that is not there, of every model made so far.

        Asks no provider. Raises ModelAccessDenied or another ModelError.
        """
        for made in list(self._made.values()):
            if isinstance(made, _Checkable):
                await made.check()

    async def aclose(self) -> None:
        """Close every model made so far, also when closing one of them fails; the last failure is raised."""
        self._made.clear()
        await self._stack.aclose()

    def _make(self, name: str) -> Model:
        provider = name.partition("/")[0]
        own = {**own_providers(), **self._factories} if self._installed else self._factories
        known = _with_installed(own, provider) if self._installed else own
        provider, model = split_model(name, known)
        factory = own.get(provider)
        if factory is None and self._installed:
            factory = installed_provider(provider)
        if factory is None:
            raise UnknownModel(f"the package that offers the provider {provider!r} was uninstalled meanwhile")
        return factory(model)


_stand_in: ContextVar[Models | None] = ContextVar("convive.agents.models", default=None)


@contextmanager
def standing_in(models: Models) -> Generator[None]:
    """Within the block, and in tasks that it starts, `default_models()` gives these."""
    before = _stand_in.get()
    _stand_in.set(models)
    try:
        yield
    finally:
        # Not `reset`: the fixtures of some test runners end in another context than they began in.
        _stand_in.set(before)


def stood_in() -> bool:
    """Whether other models stand in for the default ones, so that what is looked up here is not for keeps."""
    return _stand_in.get() is not None


def default_models(own: Mapping[str, Factory] | None = None) -> Models:
    """The shipped and the registered providers, and those of installed packages where none of these has that name.

    `own` factories go before both. Inside `fake_models()` the fakes are given instead, which belong to that block.
    """
    return _stand_in.get() or Models(own or {}, installed=True)


def shared_models() -> Models:
    """What agents look names up in that were given no `models`: in a process one object for each name, which stays open
    as long as the process. Inside `fake_models()`, the fakes."""
    return _stand_in.get() or _of_the_process()


@cache
def _of_the_process() -> Models:
    return default_models()
