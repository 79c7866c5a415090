"""Structured output on the Messages API: which schemas it holds an answer to, and how it is asked for that.

Source of the limits: https://platform.claude.com/docs/en/build-with-claude/structured-outputs. Of an object it gives
the keys that are listed and no others, so that a mapping would come back empty; it knows neither free values nor
recursion.
"""

from collections.abc import Mapping
from typing import cast

from pydantic import JsonValue

_PLAIN = ("string", "integer", "number", "boolean", "null")


def can_hold(schema: Mapping[str, JsonValue]) -> bool:
    """Whether the API can express a JSON Schema, other than for bounds of numbers and lengths, which it describes."""
    definitions = schema.get("$defs")
    return _Definitions(cast("Mapping[str, JsonValue]", definitions or {})).can_hold(dict(schema))


def output_config(schema: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """What holds an answer to a schema that `can_hold` allows."""
    import anthropic  # a second to import: see `_anthropic`

    return {"format": {"type": "json_schema", "schema": anthropic.transform_schema(dict(schema))}}


class _Definitions:
    """The definitions of one schema, each looked at once."""

    def __init__(self, definitions: Mapping[str, JsonValue]) -> None:
        self._definitions = definitions
        self._held: dict[str, bool] = {}

    def can_hold(self, schema: JsonValue) -> bool:
        if not isinstance(schema, dict):
            return False
        if "$ref" in schema:
            return self._can_hold_named(str(schema["$ref"]).removeprefix("#/$defs/"))
        values = schema.get("enum", [schema["const"]] if "const" in schema else None)
        if values is not None:
            return isinstance(values, list) and not any(isinstance(value, dict | list) for value in values)
        variants = schema.get("anyOf", schema.get("oneOf"))
        if isinstance(variants, list):
            return all(map(self.can_hold, variants))
        match schema.get("type"):
            case "object":
                fields = schema.get("properties")
                free = schema.get("additionalProperties") or "patternProperties" in schema
                return isinstance(fields, dict) and not free and all(map(self.can_hold, fields.values()))
            case "array":
                return self.can_hold(schema.get("items"))
            case kind:
                return kind in _PLAIN

    def _can_hold_named(self, name: str) -> bool:
        if name not in self._held:
            self._held[name] = False  # for one that is part of itself
            self._held[name] = self.can_hold(self._definitions.get(name))
        return self._held[name]
