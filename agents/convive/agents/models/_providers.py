"""Providers of models, by the word before the slash: the shipped ones, those that a program registers, and those that
other packages bring, as entry points of the group `convive.models`.

A package adds `acme/...` with two lines in its pyproject.toml, and one function that makes a model of the part
behind the slash:

    [project.entry-points."convive.models"]
    acme = "acme_convive:make_model"
"""

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import cast

from convive.agents.models._errors import UnknownModel
from convive.agents.models._model import Model
from convive.bus import ConviveError

GROUP = "convive.models"
"""The entry point group: its names are providers, its values factories."""

Factory = Callable[[str], Model]
"""Makes a model of what follows the first slash of its name."""


class BrokenProvider(UnknownModel):
    """An installed package offers this provider, and it cannot be used. The provider's own code is at fault."""


def _anthropic(model: str) -> Model:
    from convive.agents.models._anthropic import AnthropicModel

    return AnthropicModel(f"anthropic/{model}")


def _local(model: str) -> Model:
    from convive.agents.models._local import LocalModel

    return LocalModel(model)


def _scripted(model: str) -> Model:
    from convive.agents.models._scripted import scripted_model

    return scripted_model(model)


_SHIPPED: dict[str, Factory] = {"anthropic": _anthropic, "local": _local, "scripted": _scripted}
"""Each is imported when the first model of it is asked for."""

_registered: dict[str, Factory] = {}


def register_provider(provider: str, factory: Factory) -> None:
    """Have models whose names begin with `provider/` made by `factory`, in this process: at its start, before any of
    them was looked up. A shipped provider, or one of an installed package, is replaced.

    `factory` gets what follows the first slash. Raises ValueError for what is no word, TypeError for no function.
    """
    if not provider or "/" in provider or provider != provider.strip():
        raise ValueError(f"{provider!r} is no provider: it is the word before the slash, as in acme/large")
    if not callable(factory):
        raise TypeError(f"a provider is a function that makes a model of its name, not {type(factory).__name__}")
    _registered[provider] = factory


def own_providers() -> dict[str, Factory]:
    """The shipped providers, and those of `register_provider`."""
    return {**_SHIPPED, **_registered}


def installed_providers() -> tuple[str, ...]:
    """The providers that installed packages offer, in alphabetical order. Reads metadata only, and imports nothing."""
    return tuple(sorted({entry.name for entry in entry_points(group=GROUP) if entry.name and "/" not in entry.name}))


def installed_provider(provider: str) -> Factory | None:
    """The factory of a provider that an installed package offers, None without one; imports that package.

    The factory translates what goes wrong in it. Raises BrokenProvider when the package cannot be imported, what it
    names is no function, or two packages offer this provider.
    """
    entries = tuple(entry_points(group=GROUP, name=provider))
    if not entries:
        return None
    if len({entry.value for entry in entries}) > 1:
        offers = " and ".join(_offer(entry) for entry in entries)
        raise BrokenProvider(f"two packages offer the provider {provider!r}: {offers}. Uninstall one of them.")
    entry = entries[0]
    try:
        loaded = entry.load()
    except Exception as error:
        raise _broken(entry, f"cannot be imported: {_said(error)}") from error
    if not callable(loaded):
        raise _broken(entry, f"is no function, but {type(loaded).__name__}")
    factory = cast("Callable[[str], object]", loaded)

    def make(model: str) -> Model:
        try:
            made = factory(model)
        except ConviveError:
            raise
        except Exception as error:
            raise _broken(entry, f"could not make {provider}/{model}: {_said(error)}") from error
        if not isinstance(getattr(made, "name", None), str) or not callable(getattr(made, "stream", None)):
            raise _broken(entry, f"made {type(made).__name__}, which is no model: it needs `name` and `stream`")
        return cast("Model", made)

    return make


def _broken(entry: EntryPoint, why: str) -> BrokenProvider:
    return BrokenProvider(
        f"the provider {entry.name!r} comes from {_offer(entry)}, and that {why}. "
        "Update or uninstall that package, or choose another model."
    )


def _offer(entry: EntryPoint) -> str:
    package = "an installed package" if entry.dist is None else f"{entry.dist.name} {entry.dist.version}"
    return f"{entry.value} of {package}"


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
