"""From a typed function to what a model needs to call it: a description and a JSON Schema of its arguments."""

import functools
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import from_json, to_json

from convive.bus import ConviveError


class BadTool(ConviveError):
    """A tool cannot be made from this function, or two tools share a name. Nothing ran."""


class NoJsonForm(Exception):
    """A value of this type has no JSON form, and its text says no more than where in memory it is."""


class BadArguments(Exception):
    """Arguments that do not fit the schema. `issues` names each place and what is wrong there."""

    def __init__(self, issues: list[dict[str, str]]) -> None:
        self.issues = issues
        super().__init__("; ".join(": ".join(filter(None, (each["path"], each["message"]))) for each in issues))


@dataclass(frozen=True, slots=True)
class Parameters:
    """The arguments of a function as a model may send them. `context` is the parameter that takes the context."""

    model: type[BaseModel]
    names: Mapping[str, str]
    schema: dict[str, JsonValue]
    context: str | None

    def validate(self, arguments: JsonValue) -> dict[str, object]:
        """Keyword arguments for the function; what was left out is left to its defaults. Raises BadArguments."""
        if not isinstance(arguments, dict):
            kind = type(arguments).__name__
            raise BadArguments([{"path": "", "message": f"the arguments must be a JSON object, not {kind}"}])
        try:
            valid = self.model.model_validate_json(to_json(arguments))
        except ValidationError as error:
            raise BadArguments(_issues(error)) from None
        return {self.names[field]: getattr(valid, field) for field in valid.model_fields_set}


class ModelParameters(Parameters):
    """Arguments that a pydantic model describes; the handler takes the model, under the one name in `names`."""

    __slots__ = ()

    def validate(self, arguments: JsonValue) -> dict[str, object]:
        """The model, as the handler's one argument. Raises BadArguments."""
        sent = to_json(arguments)
        try:
            return {name: self.model.model_validate_json(sent) for name in self.names}
        except ValidationError as error:
            raise BadArguments(_issues(error)) from None


def model_parameters(model: type[BaseModel], name: str, argument: str, context: str | None = None) -> Parameters:
    """The fields of `model` as the arguments of the tool `name`. Raises BadTool."""
    check_input(model, name)
    try:
        schema = model.model_json_schema(schema_generator=Untitled)
    except PydanticUserError as error:
        reason = str(error).partition("\n")[0]
        raise BadTool(f"tool {name!r}: no JSON Schema can be made of its input: {reason}") from None
    if schema.get("type") != "object":
        raise BadTool(f"tool {name!r}: the input must be a model with fields, which a model can fill by name.")
    schema.pop("title", None)
    return ModelParameters(model, {argument: argument}, schema, context)


def check_input(model: object, name: str) -> None:
    """Raises BadTool for what is no pydantic model."""
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise BadTool(f"tool {name!r}: input= takes a pydantic model, whose fields are the arguments, not {model!r}.")


def check_data(kind: TypeAdapter[typing.Any], value: JsonValue) -> None:
    """Raises BadArguments for JSON data that is not of this type."""
    try:
        kind.validate_json(to_json(value))
    except ValidationError as error:
        raise BadArguments(_issues(error)) from None


def schema_of(kind: TypeAdapter[typing.Any]) -> dict[str, JsonValue] | None:
    """A JSON Schema of a type; None for a type that has none."""
    try:
        return kind.json_schema(schema_generator=Untitled)
    except PydanticUserError:
        return None


class Untitled(GenerateJsonSchema):
    """JSON Schema without the titles that pydantic derives from names: tokens that tell a model nothing."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False


def _issues(error: ValidationError) -> list[dict[str, str]]:
    return [
        {"path": ".".join(str(step) for step in issue["loc"]), "message": issue["msg"]}
        for issue in error.errors(include_url=False, include_input=False, include_context=False)
    ]


def describe(function: Callable[..., object]) -> str:
    """The docstring without its section on parameters."""
    text, _ = _read_docstring(function)
    return text


def parameters_of(
    function: Callable[..., object], context_type: type, scope: Mapping[str, object] | None = None
) -> Parameters:
    """The parameters of a function by its type hints and docstring.

    The parameter annotated with `context_type` is not part of the schema. `scope`: names that string
    annotations may use beside the function's globals. Raises BadTool.
    """
    name = getattr(function, "__name__", repr(function))
    hints = _hints(function, name, scope)
    _, about = _read_docstring(function)
    fields: dict[str, typing.Any] = {}
    names: dict[str, str] = {}
    context: str | None = None
    for parameter in _signature(function, name).parameters.values():
        if parameter.name in hints and hints[parameter.name] is context_type:
            context = parameter.name
            continue
        _check(parameter, name, hints)
        # Aliases: a parameter may be called `copy` or `_id`, a field of a pydantic model may not.
        field = f"argument_{len(fields)}"
        names[field] = parameter.name
        default = ... if parameter.default is parameter.empty else parameter.default
        # A description of None would hide one that stands in the annotation.
        described: typing.Any = {"description": about.pop(parameter.name)} if parameter.name in about else {}
        info = Field(default, alias=parameter.name, **described)
        fields[field] = (hints[parameter.name], info)
    about.pop(context or "", None)
    if about:
        raise BadTool(f"tool {name!r}: its docstring describes {sorted(about)}, which it does not take.")
    return _build(name, fields, names, context)


def _build(name: str, fields: dict[str, typing.Any], names: dict[str, str], context: str | None) -> Parameters:
    try:
        model = create_model(name, __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False), **fields)
        schema = model.model_json_schema(schema_generator=Untitled)
    except (PydanticUserError, TypeError) as error:
        reason = str(error).partition("\n")[0]
        raise BadTool(f"tool {name!r}: no JSON Schema can be made from its type hints: {reason}") from None
    schema.pop("title", None)
    schema.pop("description", None)
    return Parameters(model, names, schema, context)


def _hints(function: Callable[..., object], name: str, scope: Mapping[str, object] | None) -> dict[str, typing.Any]:
    try:
        return typing.get_type_hints(_annotated(function), localns=dict(scope or {}), include_extras=True)
    except NameError as error:
        raise BadTool(
            f"tool {name!r}: its annotation uses {error.name!r}, which is not defined where the tool is made."
        ) from None


def _annotated(function: Callable[..., object]) -> Callable[..., object]:
    """Where the annotations and the docstring stand: also of a partial, and of an object that can be called."""
    while isinstance(function, functools.partial):
        function = function.func
    plain = inspect.isroutine(function) or inspect.isclass(function)
    return function if plain else typing.cast("Callable[..., object]", type(function).__call__)


def _signature(function: Callable[..., object], name: str) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except ValueError:
        raise BadTool(f"tool {name!r}: Python does not tell what it takes. Wrap it in a function.") from None


def _check(parameter: inspect.Parameter, name: str, hints: Mapping[str, object]) -> None:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise BadTool(f"tool {name!r}: parameter {parameter.name!r} must be one that can be passed by name.")
    if parameter.name == "self" and "self" not in hints:
        raise BadTool(f"tool {name!r} is a method, and of no object yet: `tools=[it.{name}]` takes it from one.")
    if parameter.name not in hints:
        raise BadTool(f"tool {name!r}: parameter {parameter.name!r} has no type hint; a model could not fill it.")


_SECTION = re.compile(r"^(Args|Arguments|Parameters):\s*$")
_ENTRY = re.compile(r"^\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)$")
_OTHER = re.compile(r"^(Returns|Raises|Yields|Examples?|Notes?):\s*$")


def _read_docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """The prose, and the parameters of an `Args:` section (the style of Google's guide)."""
    prose: list[str] = []
    about: dict[str, str] = {}
    section, margin, current = "prose", 0, ""
    for line in (inspect.getdoc(_annotated(function)) or "").splitlines():
        bare = line.strip()
        if _SECTION.match(line) or _OTHER.match(line):
            section, margin, current = ("args" if _SECTION.match(line) else "other"), 0, ""
        elif section == "prose" or (section == "args" and bare and line == bare):
            section = "prose"
            prose.append(line)
        elif section == "args" and bare:
            indent = len(line) - len(line.lstrip())
            margin = margin or indent
            entry = _ENTRY.match(bare) if indent == margin else None
            if entry:
                current = entry[1]
                about[current] = entry[2]
            elif current:
                about[current] = f"{about[current]} {bare}".strip()
    return "\n".join(prose).strip(), about


def clean(text: str) -> str:
    """The text with what UTF-8 cannot carry (lone surrogates) put as `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def cleaned(value: typing.Any) -> typing.Any:
    """Data with every text in it as `clean` gives it."""
    match value:
        case str():
            return clean(value)
        case dict():
            return {cleaned(key): cleaned(each) for key, each in typing.cast("dict[object, object]", value).items()}
        case list() | tuple():
            return [cleaned(each) for each in typing.cast("list[object]", value)]
        case _:
            return value


_IN_MEMORY = re.compile(r"<.* at 0x[0-9a-fA-F]+>", re.DOTALL)


def telling(value: object) -> str:
    """A value as JSON text, as `json_of` gives it. Raises NoJsonForm where that would tell nobody anything."""
    opaque: list[object] = []

    def text_of(each: object) -> str:
        text = str(each)
        if _IN_MEMORY.fullmatch(text):
            opaque.append(each)
        return text

    text = json_of(value, text_of)
    if opaque:
        raise NoJsonForm(type(opaque[0]).__name__)
    return text


def json_of(value: object, fallback: Callable[[object], str] = str) -> str:
    """A value as JSON text; what has no JSON form is put as its `str`."""
    try:
        return to_json(value, fallback=fallback, inf_nan_mode="null").decode()
    except ValueError:  # bytes that are no text, a lone surrogate, a value that holds itself
        return to_json(clean(str(value))).decode()


def jsonable(value: object) -> JsonValue:
    """A value as JSON data; what has no JSON form is put as its `str`."""
    if value is None or isinstance(value, bool | int):
        return value
    data: JsonValue = from_json(json_of(value))
    return data


def schema_in_words(schema: Mapping[str, JsonValue]) -> str:
    """What a model is told that is not held to a schema by its provider."""
    return (
        "Your final answer must be JSON that fits this JSON Schema, without any other text around it:\n"
        f"{json_of(schema)}"
    )


def check_number(name: str, value: object, *, whole: bool = False, signed: bool = False) -> None:
    """Raises TypeError for what is no number (True is none), and ValueError for one below zero unless `signed`."""
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise TypeError(f"{name}={value!r} is no {'whole ' if whole else ''}number.")
    if value != value:
        raise ValueError(f"{name}={value} is no number.")
    if value < 0 and not signed:
        raise ValueError(f"{name}={value} is below zero.")
