"""Which answers Claude's API can hold a model to, and what is said where it cannot."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, JsonValue

from convive.agents import Agent
from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._messages_server import MessagesServer
from convive.agents.tools._output import output_of
from tests.agents.provider import KEY

pytestmark = pytest.mark.anyio


class Line(BaseModel):
    item: str
    count: Annotated[int, Field(ge=1)] = 1
    kind: Literal["food", "drink"] | None = None


class Order(BaseModel):
    lines: list[Line]


class Stock(BaseModel):
    counts: dict[str, int]


class Loose(BaseModel):
    anything: Any


class Tree(BaseModel):
    name: str
    below: list["Tree"] = []


class Pair(BaseModel):
    both: tuple[int, str]


async def sent(kind: Any, answer: str, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """The data of an answer, and the body of the request for it."""
    async with MessagesServer([answer]) as server:
        model = AnthropicModel("anthropic/claude-test", base_url=server.url, api_key=KEY, max_retries=0, **options)
        try:
            result = await Agent("clerk", model=model, instructions="Be brief.", output=kind).prompt("What is there?")
        finally:
            await model.aclose()
        return result.data, server.requests[0].body


def system(body: Mapping[str, Any]) -> str:
    return "".join(block["text"] for block in body["system"])


@pytest.mark.parametrize("kind", [Order, list[Line], int, str | None])
async def test_a_schema_that_the_api_can_express_is_held_by_it(kind: Any) -> None:
    """W12"""
    answers = {Order: '{"lines": []}', int: "3"}
    _, body = await sent(kind, answers.get(kind, "[]" if kind == list[Line] else "null"))
    assert body["output_config"]["format"]["type"] == "json_schema"
    assert system(body) == "Be brief."


@pytest.mark.parametrize(
    ("kind", "answer", "data"),
    [
        (Stock, '{"counts": {"bread": 3}}', Stock(counts={"bread": 3})),
        (dict[str, int], '{"bread": 3}', {"bread": 3}),
        (Loose, '{"anything": [1, "a"]}', Loose(anything=[1, "a"])),
        (list[Any], '[1, "a"]', [1, "a"]),
        (Tree, '{"name": "a", "below": [{"name": "b"}]}', Tree(name="a", below=[Tree(name="b")])),
        (Pair, '{"both": [1, "a"]}', Pair(both=(1, "a"))),
    ],
)
async def test_what_it_cannot_express_is_said_in_words_and_not_made_narrower(
    kind: Any, answer: str, data: JsonValue
) -> None:
    """W13: free keys would come back as none at all, free values and recursion are refused."""
    found, body = await sent(kind, answer)
    assert found == data
    assert "output_config" not in body
    assert system(body).startswith("Be brief.\n\n")
    assert json.dumps(output_of(kind, 0).schema, separators=(",", ":")) in system(body)


async def test_what_else_is_configured_of_the_output_stays_beside_the_schema() -> None:
    _, body = await sent(Order, '{"lines": []}', extra_body={"output_config": {"effort": "low"}})
    assert body["output_config"]["effort"] == "low"
    assert body["output_config"]["format"]["type"] == "json_schema"
