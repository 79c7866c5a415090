"""Structured output: a type that the final answer has to fit, told to the model, and always validated here."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from convive.agents.journal._journal import Rejected
from convive.agents.models._schema import Untitled, schema_in_words
from convive.bus import ConviveError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Data = TypeVar("Data", default=Any, covariant=True)
else:
    from typing import TypeVar

    Data = TypeVar("Data", covariant=True)

_FENCE = re.compile(r"```(?:json)?[ \t]*\n")
_CLOSED = re.compile(r"\n[ \t]*```")
_MOST_ISSUES = 20


class BadOutput(ConviveError):
    """No JSON Schema can be made of the type given as `output`. Nothing ran."""


@dataclass(frozen=True, slots=True)
class Output:
    """What a final answer has to be. `repair`: how many unfit answers in a row are asked for again."""

    adapter: TypeAdapter[Any]
    schema: dict[str, JsonValue]
    repair: int

    @property
    def instruction(self) -> str:
        """What a model is told that cannot be held to a schema by its provider."""
        return schema_in_words(self.schema)

    def read(self, text: str) -> Any:
        """The data in an answer; a fence around the JSON is taken off. Raises ValidationError."""
        begins = _FENCE.search(text)
        if begins is None:
            return self.adapter.validate_json(text.strip())
        inner = text[begins.end() - 1 :]
        try:
            return self.adapter.validate_json(inner.partition("```")[0].strip())
        except ValidationError as error:
            # A fence may stand in a text of the data, and then it is on no line of its own.
            own_line = _CLOSED.search(inner) if error.errors()[0]["type"] == "json_invalid" else None
            if own_line is None:
                raise
        return self.adapter.validate_json(inner[: own_line.start()].strip())

    def judge(self, text: str) -> Rejected | None:
        """Why an answer is of no use, with each place that does not fit; None if it is fit."""
        try:
            self.read(text)
        except ValidationError as error:
            found = error.errors(include_url=False, include_input=False, include_context=False)
            issues = [f"{'.'.join(map(str, each['loc'])) or 'the answer'}: {each['msg']}" for each in found]
            reason = "; ".join(issues[:_MOST_ISSUES])
            feedback = f"That answer does not fit the schema. {reason}. Answer again, with the corrected JSON only."
            reason = f"the answer does not fit `output`: {reason}"
            return Rejected(reason=reason, feedback=feedback, reasks=self.repair)
        return None


def output_of(kind: Any, repair: int) -> Output:
    """What `output=` and `repair=` come to. Raises BadOutput, and ValueError for a negative number of repairs."""
    if repair < 0:
        raise ValueError(f"repair={repair} is below zero; 0 means that no unfit answer is asked for again")
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        schema: dict[str, JsonValue] = adapter.json_schema(schema_generator=Untitled)
    except (PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadOutput(f"output={kind!r}: no JSON Schema can be made of it: {reason}") from None
    return Output(adapter, schema, repair)
