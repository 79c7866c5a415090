"""What answers cost: a table of prices that a user can replace, and amounts that say whether they are whole."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from math import isfinite
from typing import TYPE_CHECKING

from convive.agents.models._model import Answer, Usage
from convive.bus import ConviveError

if TYPE_CHECKING:
    from convive.agents.journal._fold import Trip

_TOKENS = 1_000_000
_DATE = re.compile(r"-\d{8}$")
_MOST_NAMES = 256


class UnknownPrice(ConviveError):
    """A limit on the cost binds this run, and no price is known for a model of it. Nothing ran."""


@dataclass(frozen=True, slots=True)
class Cost:
    """An amount of money. `complete` is false when a part of it is unknown: then it costs at least `known`.

    Costs of one currency add up, and a sum with an unknown part is incomplete. `Cost()` is nothing spent, known.
    """

    known: float = 0.0
    complete: bool = True
    currency: str = "USD"

    @property
    def amount(self) -> float | None:
        """The whole amount, or None when a part of it is unknown."""
        return self.known if self.complete else None

    def __add__(self, other: "Cost") -> "Cost":
        """Raises ValueError for two currencies."""
        if self.currency != other.currency:
            raise ValueError(f"{self.currency} and {other.currency} cannot be added up")
        return Cost(self.known + other.known, self.complete and other.complete, self.currency)

    def __str__(self) -> str:
        if not self.complete and self.known == 0:
            return "unknown"
        digits = 6 if 0 < self.known < 0.01 else 4
        return f"{'' if self.complete else 'at least '}{self.known:.{digits}f} {self.currency}"


@dataclass(frozen=True, slots=True)
class Price:
    """Prices per million tokens. None: not known, and only answers with such tokens have an incomplete cost.

    `input` is for tokens outside a prompt cache, `cache_write` for those that were put into one, `cache_read` for those
    that were found there; `output` includes the model's reasoning.
    """

    input: float | None
    output: float | None
    cache_read: float | None = None
    cache_write: float | None = None

    def __post_init__(self) -> None:
        if any(
            price is not None and price < 0 for price in (self.input, self.output, self.cache_read, self.cache_write)
        ):
            raise ValueError(f"a price is below zero: {self}")

    @property
    def is_free(self) -> bool:
        """Whether no kind of token costs anything."""
        return not any(price != 0 for price in (self.input, self.output, self.cache_read, self.cache_write))

    def cost(self, usage: Usage, currency: str = "USD") -> Cost:
        """What this usage costs."""
        parts = (
            (usage.input_tokens, self.input),
            (usage.output_tokens, self.output),
            (usage.cache_read_tokens, self.cache_read),
            (usage.cache_write_tokens, self.cache_write),
        )
        known = sum(tokens * price for tokens, price in parts if price is not None) / _TOKENS
        return Cost(known, all(price is not None or not tokens for tokens, price in parts), currency)


class Prices:
    """A price table.

    Its keys are `provider/model`, with `*`, `?` and `[...]` as in file names; the first that fits wins. A key also fits
    a model with a date behind its name: `anthropic/x` fits `anthropic/x-20260101`. A model that no key fits has an
    unknown cost, never zero: also local and scripted models are free only because a table says so.
    """

    def __init__(self, prices: Mapping[str, Price], currency: str = "USD") -> None:
        self._prices = dict(prices)
        self.currency = currency
        self._known = lru_cache(_MOST_NAMES)(self._search)

    def __repr__(self) -> str:
        return f"<Prices of {len(self._prices)} kinds of models in {self.currency}>"

    def but(self, prices: Mapping[str, Price]) -> "Prices":
        """Another table, in which these go before those of this one."""
        kept = {key: price for key, price in self._prices.items() if key not in prices}
        return Prices({**prices, **kept}, self.currency)

    def price(self, model: str) -> Price | None:
        """The price of `provider/model`, None when the table does not know it."""
        return self._known(model)

    def _search(self, model: str) -> Price | None:
        dateless = _DATE.sub("", model)
        fitting = (
            price
            for key, price in self._prices.items()
            if key in (model, dateless) or fnmatchcase(model, key) or fnmatchcase(dateless, key)
        )
        return next(fitting, None)

    def cost(self, usage: Usage, asked: str, answered: str = "") -> Cost:
        """What one answer, or many of one model, cost.

        `asked`: the name of the model that was asked. `answered`: what the answer says (`Answer.model`), which may be
        more exact and, from a failover, is one of several; it decides where the table knows it. No tokens at all means
        that nobody counted them: that has an unknown cost, unless the model is free.
        """
        for name in _billed(asked, answered):
            price = self.price(name)
            if price is not None:
                uncounted = usage.total_tokens == 0 and not price.is_free
                return self.unknown() if uncounted else price.cost(usage, self.currency)
        return self.unknown()

    def unknown(self) -> Cost:
        """A cost of which nothing is known."""
        return Cost(0.0, complete=False, currency=self.currency)

    def cost_of_trips(self, trips: "Iterable[Trip]", asked: str) -> Cost:
        """What the trips of a run cost, on a model of that name.

        A request that brought no answer may have been billed all the same, so it makes the sum incomplete, unless the
        model is free.
        """
        total = Cost(currency=self.currency)
        for trip in trips:
            if trip.answer is not None:
                total += self.cost(trip.usage, asked, trip.answer.model)
            if trip.answer is None or trip.attempt > 1:
                total += self.cost(Usage(), asked)
        return total


def _billed(asked: str, answered: str) -> tuple[str, ...]:
    """The names under which an answer may be billed, the best first."""
    providers = [name.partition("/")[0] for name in asked.split("|")]
    if answered.partition("/")[0] in providers and "/" in answered:
        names = [answered]
    elif answered and len(providers) == 1:
        names = [f"{providers[0]}/{answered}"]
    else:
        names = []
    return (*names, asked) if len(providers) == 1 else tuple(names)


CostOf = Prices | Callable[[str, Usage], float | None]
"""A price table; or a function of a model's name and of the usage of one answer, None when that is not known."""


def cost_of(rule: CostOf | None, answer: Answer, asked: str, lost: int = 0, broken: Sequence[str] = ()) -> Cost:
    """What an answer of the model named `asked` costs, and the requests before it that were lost on their way.

    `broken`: those models of several whose answer to this request broke off. Nobody told what the lost ones used, so
    that they are free or unknown. Without a rule all is unknown.
    """
    if isinstance(rule, Prices):
        cost = rule.cost(answer.usage, asked, answer.model)
        for name in (*broken, asked) if lost else broken:
            cost += rule.cost(Usage(), name)
        return cost
    # Of several models, the one that answered signs with its provider.
    amount = None if rule is None else rule(answer.model if "/" in answer.model else asked, answer.usage)
    if amount is None or not isfinite(amount):
        return Cost(complete=False)
    return Cost(amount, complete=not lost and not broken)


def unpriced(rule: CostOf | None, model: str) -> list[str]:
    """Those models of a name, which may be that of several, for which no price is known. A function may know all."""
    if rule is not None and not isinstance(rule, Prices):
        return []
    return [name for name in model.split("|") if rule is None or rule.price(name) is None]


@cache
def shipped_prices() -> Prices:
    """List prices of some Claude models in US dollars, as of 2026-11-20. Prices change: check before you rely on them.

    They were copied by hand from stored copies of the pricing and model pages at platform.claude.com/docs, not read
    live. Cache writes are those that last five minutes, the kind that this library asks for. Without discounts,
    batches, regional surcharges, fast mode and taxes. Left out, and therefore unknown: models whose sources disagreed
    (Sonnet 5.5), whose price depends on the length of the prompt (Haiku 5.5), that are retired, or that came later.

    Local, scripted and replayed models cost nothing here, because nobody sends a bill for them. If your machine does,
    `shipped_prices().but({"local/*": Price(...)})`.
    """
    opus = Price(input=5, output=25, cache_read=0.5, cache_write=6.25)
    sonnet_4 = Price(input=3, output=15, cache_read=0.3, cache_write=3.75)
    free = Price(0, 0, 0, 0)
    return Prices(
        {
            "anthropic/claude-fable-5-1": Price(input=10, output=50, cache_read=0.25, cache_write=12.5),
            "anthropic/claude-fable-5": Price(input=10, output=50, cache_read=1, cache_write=12.5),
            "anthropic/claude-opus-5-5": Price(input=4, output=20, cache_read=0.2, cache_write=5),
            "anthropic/claude-opus-5": opus,
            "anthropic/claude-opus-4-8": opus,
            "anthropic/claude-opus-4-7": opus,
            "anthropic/claude-opus-4-6": opus,
            "anthropic/claude-opus-4-5": opus,
            "anthropic/claude-sonnet-5": Price(input=2, output=10, cache_read=0.2, cache_write=2.5),
            "anthropic/claude-sonnet-4-6": sonnet_4,
            "anthropic/claude-sonnet-4-5": sonnet_4,
            "anthropic/claude-haiku-4-5": Price(input=1, output=5, cache_read=0.1, cache_write=1.25),
            "local/*": free,
            "scripted/*": free,
            "replay/*": free,
        }
    )
