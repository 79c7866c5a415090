"""JSON data checked against a JSON Schema, as far as its outermost level: names, what is required, and types.

For what is described by a schema and by nothing else. What lies deeper is checked by whoever takes the data.
"""

from collections.abc import Iterator, Mapping

from pydantic import JsonValue

from convive.agents.models._schema import BadArguments

_KINDS: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "object": (dict,),
    "array": (list,),
    "null": (type(None),),
}


def check_outermost(schema: Mapping[str, JsonValue], value: JsonValue) -> None:
    """Raises BadArguments for a value that does not fit, or whose names do not."""
    if not _is(value, schema.get("type")):
        kind = type(value).__name__
        raise BadArguments([{"path": "", "message": f"it should be of type {schema['type']}, not {kind}"}])
    if isinstance(value, dict):
        issues = [{"path": name, "message": told} for name, told in (*_missing(schema, value), *_unfit(schema, value))]
        if issues:
            raise BadArguments(issues)


def _missing(schema: Mapping[str, JsonValue], arguments: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    required = schema.get("required")
    for name in required if isinstance(required, list) else []:
        if isinstance(name, str) and name not in arguments:
            yield name, "Field required"


def _unfit(schema: Mapping[str, JsonValue], arguments: Mapping[str, JsonValue]) -> Iterator[tuple[str, str]]:
    properties = schema.get("properties")
    known = properties if isinstance(properties, dict) else {}
    closed = schema.get("additionalProperties") is False and "patternProperties" not in schema
    for name, value in arguments.items():
        described = known.get(name)
        if name not in known:
            if closed:
                yield name, f"Not an argument of this tool. It takes: {', '.join(known) or 'none'}"
        elif isinstance(described, dict) and not _is(value, described.get("type")):
            yield name, f"Input should be of type {described['type']}"


def _is(value: JsonValue, kind: JsonValue) -> bool:
    """Whether a value is of a type as `type` in a schema names it; true for what that does not say."""
    if isinstance(kind, list):
        return any(_is(value, each) for each in kind)
    if not isinstance(kind, str) or kind not in _KINDS:
        return True
    if isinstance(value, bool):
        return kind == "boolean"
    if kind == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _KINDS[kind])
