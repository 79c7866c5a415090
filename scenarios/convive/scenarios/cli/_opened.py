"""One run or turn of a trace, opened: what it was told, answered and called, what came of it, where to look next."""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise

from convive.agents import Approve, Deny, Edit, Message, Node, Resolution, Result, Text, Thinking, ToolResult, ToolUse
from convive.scenarios.cli._calls import json_text
from convive.scenarios.cli._transcript import shown
from convive.scenarios.cli._tree import ID, MARKS, damage_of, duration, error_of, money, name_of, tokens

MAX_CHARS, MAX_LINES, MAX_MESSAGES = 1_500, 16, 6
"""What is shown of one text, and of a history, when not all is asked for."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a seat had heard when it got the floor, from the bus: since it spoke last, on lines for a terminal."""

    lines: tuple[str, ...]
    cue: str | None
    conversation: str
    until: int
    """The last record before the turn."""
    seat: str | None


@dataclass(frozen=True, slots=True)
class OpenedLine:
    """One line, how far it is indented, and the style of it."""

    text: str
    indent: int = 0
    style: str = ""


def printable(text: str) -> Iterator[str]:
    """The lines of a text as a terminal may show them: no control characters, blanks at their beginning kept."""
    for line in text.splitlines() or [""]:
        yield "".join(char for char in line.expandtabs(4) if char.isprintable()).rstrip()


def opened_lines(node: Node, heard: Heard | None, *, full: bool) -> list[OpenedLine]:
    """All that is kept of a turn or a run, for a person. `full`: nothing is cut."""
    return list(_Screen(full).opened(node, heard))


class _Screen:
    def __init__(self, full: bool) -> None:
        self._full = full

    def opened(self, node: Node, heard: Heard | None) -> Iterator[OpenedLine]:
        yield OpenedLine(f"{MARKS[node.status]} {_title(node)}", style="bold")
        yield from (OpenedLine(fact, 2, "dim") for fact in _facts(node))
        yield from self._trouble(node, 2)
        if node.kind == "conversation" and node.detail:
            yield from self._words("topic", node.detail, 2)
        if heard is not None:
            yield from self._heard(heard)
        if node.kind == "run":
            yield from self._told(node, 2, refers=heard is None)
        yield from self._parts(node, 2)

    def _heard(self, heard: Heard) -> Iterator[OpenedLine]:
        cue = f", to {heard.cue}" if heard.cue else ""
        yield OpenedLine(f"heard since it spoke last{cue}", 2, "bold")
        lines = heard.lines if self._full else heard.lines[-2 * MAX_MESSAGES :]
        for line in lines or ("nothing",):
            yield from self._text(line, 4)
        place = f"convive replay {heard.conversation} --to {heard.until}"
        seat = f" --seat {heard.seat}" if heard.seat else ""
        yield OpenedLine(f"all of it: {place}; its memory: convive memory {heard.conversation}{seat}", 4, "dim")

    def _told(self, node: Node, indent: int, *, refers: bool) -> Iterator[OpenedLine]:
        """What the journal keeps of it: the history and the input; or a reference to them, where that `refers` on."""
        started = next((event for event in node.events if event.type == "run_started"), None)
        if started is None:
            return
        if started.source is not None and refers:
            yield from self._words("told what stands at", json_text(started.source), indent)
        if started.history:
            left_out = 0 if self._full else max(0, len(started.history) - MAX_MESSAGES)
            yield OpenedLine("told before", indent, "bold")
            if left_out:
                yield OpenedLine(f"… {left_out} earlier messages (--full)", indent + 2, "dim")
            for message in started.history[left_out:]:
                yield from self._message(message, indent + 2)
        if started.input is not None:
            yield from self._words("told", started.input, indent)
        if started.meta is not None:
            yield from self._words("meta", json_text(started.meta), indent)

    def _message(self, message: Message, indent: int) -> Iterator[OpenedLine]:
        for part in message.parts:
            match part:
                case Text():
                    yield from self._text(f"{message.role}: {part.text}", indent)
                case Thinking():
                    yield from self._text(f"{message.role}, thinking: {part.thinking}", indent, "italic dim")
                case ToolUse():
                    yield from self._text(f"{message.role} calls {part.name} {json_text(part.arguments)}", indent)
                case ToolResult():
                    yield from self._text(f"{'error' if part.is_error else 'result'}: {part.content}", indent)

    def _parts(self, node: Node, indent: int) -> Iterator[OpenedLine]:
        for part in node.children:
            match part.kind:
                case "trip":
                    yield from self._answer(part, node, indent)
                case "tool":
                    yield from self._call(part, node, indent)
                case _ if part.run_id == node.run_id:  # the run of a turn
                    yield OpenedLine(f"{MARKS[part.status]} {_title(part)}", indent, "bold")
                    yield from self._trouble(part, indent + 2)
                    yield from self._told(part, indent + 2, refers=False)
                    yield from self._parts(part, indent + 2)
                case _:
                    yield from self._next(part, indent)
        yield from self._end(node, indent)

    def _answer(self, trip: Node, run: Node, indent: int) -> Iterator[OpenedLine]:
        yield OpenedLine(f"{MARKS[trip.status]} {_title(trip)}", indent, "bold")
        yield from self._trouble(trip, indent + 2)
        for event in trip.events:
            if event.type != "model_answered":
                continue
            carried_out = sum(1 for each in run.children if each.part.startswith(f"tool/{event.trip}/"))
            for part in event.parts:
                match part:
                    case Thinking():
                        yield from self._words("thinks", part.thinking or "(hidden)", indent + 2, "italic dim")
                    case Text():
                        yield from self._words("says", part.text, indent + 2) if part.text else ()
                    case ToolUse() if carried_out:
                        carried_out -= 1  # it has a line of its own
                    case ToolUse():
                        yield from self._words("wants", f"{part.name} {json_text(part.arguments)}", indent + 2)
                    case ToolResult():
                        pass
            if event.refined is not None:
                yield from self._words("refined to", event.refined, indent + 2)
            if event.rejected is not None:
                yield from self._words("rejected", event.rejected.reason, indent + 2, "yellow")
                yield from self._words("told", event.rejected.feedback, indent + 2) if event.rejected.feedback else ()

    def _call(self, tool: Node, run: Node, indent: int) -> Iterator[OpenedLine]:
        yield OpenedLine(f"{MARKS[tool.status]} {_title(tool)}", indent, "bold")
        yield from self._trouble(tool, indent + 2, error=False)
        if tool.detail:
            yield from self._words("with", tool.detail, indent + 2)
        answers = {id: each for event in run.events if event.type == "resumed" for id, each in event.answers.items()}
        for event in tool.events:
            if event.type == "suspended":
                for interrupt in event.interrupts:
                    if (interrupt.trip, interrupt.index) != _place(tool):
                        continue
                    answer = answers.get(interrupt.id)
                    waits = "an approval" if interrupt.kind == "approval" else "its result from outside"
                    yield from self._words("waited for" if answer else "waits for", waits, indent + 2, "yellow")
                    if answer is not None:
                        yield from self._words("answered", _resolution(answer), indent + 2)
                    else:
                        yield OpenedLine(
                            f"convive pending shows it; convive approve|deny|answer {tool.run_id}", indent + 2, "dim"
                        )
            elif event.type == "tool_returned":
                style = "bold red" if event.is_error else ""
                said = error_of(event.content) if event.is_error else event.content
                yield from self._words("error" if event.is_error else "gave back", said, indent + 2, style)
                if self._full and event.value is not None:
                    yield from self._words("whole result", json_text(event.value), indent + 2, "dim")
                for artifact in event.artifacts:
                    yield from self._words(f"artifact {artifact.key}", json_text(artifact.value), indent + 2, "dim")
                if event.handed_to:
                    yield from self._words("handed to", ", ".join(event.handed_to), indent + 2)
        known = {event.content for event in tool.events if event.type == "tool_returned"}
        for below in tool.children:
            yield from self._next(below, indent + 2, known)

    def _next(self, node: Node, indent: int, known: Container[str] = ()) -> Iterator[OpenedLine]:
        """A run or turn below: what came of it, and its id, to open it next."""
        yield OpenedLine(f"{MARKS[node.status]} {_title(node)}  --run {shown(node.run_id[-ID:])}", indent, "cyan")
        yield from self._trouble(node, indent + 2)
        if node.detail and node.detail not in known:
            yield from self._text(node.detail.strip(), indent + 2)

    def _end(self, node: Node, indent: int) -> Iterator[OpenedLine]:
        for event in node.events:
            match event.type:
                case "run_finished":
                    said = [part.detail for part in node.children if part.kind == "trip"]
                    text = "its last answer" if said and said[-1] == event.text else event.text or "nothing"
                    how = "" if event.reason == "answered" else f" ({event.reason})"
                    yield from self._words(f"= finished{how}", text, indent)
                    yield from self._words("warning", event.warning, indent, "yellow") if event.warning else ()
                case "run_failed":
                    again = "a new run may do better" if event.transient else "a new run would do no better"
                    yield OpenedLine(f"= failed: {again}", indent, "red")
                case "run_cancelled":
                    yield from self._words("= called off", event.reason or "without a reason", indent)
                case _:
                    pass
        if node.kind == "turn" and node.detail:
            does = {"ok": "said", "passed": "passed", "revoked": "the floor was taken back"}.get(node.status, "so far")
            yield from self._words(f"= {does}", node.detail, indent)

    def _trouble(self, node: Node, indent: int, *, error: bool = True) -> Iterator[OpenedLine]:
        for last, again in pairwise(node.attempts):
            yield OpenedLine(f"broken off behind record {last}, begun again at record {again}", indent, "yellow")
        if node.error and error:
            yield from self._words("error", error_of(node.error), indent, "bold red")
        for why in damage_of(node):
            yield from self._words("damaged", why, indent, "red")
        if node.orphan:
            yield OpenedLine(f"what called it, {node.run.parent_run_id}, is not in the log", indent, "red")

    def _words(self, what: str, text: str, indent: int, style: str = "") -> Iterator[OpenedLine]:
        lines = text.splitlines()
        if len(lines) > 1:
            yield OpenedLine(f"{what}:", indent, style)
            yield from self._text(text, indent + 2, style)
        else:
            yield from self._text(f"{what}: {text.strip()}", indent, style)

    def _text(self, text: str, indent: int, style: str = "") -> Iterator[OpenedLine]:
        kept = text if self._full else "\n".join(text[:MAX_CHARS].splitlines()[:MAX_LINES])
        for line in printable(kept):
            yield OpenedLine(line, indent, style)
        if len(kept) < len(text.rstrip()):
            yield OpenedLine(f"… {len(text) - len(kept):,} more characters (--full)", indent, "dim")


def _title(node: Node) -> str:
    """A node's name, and all figures of it that there are."""
    sums = bool(node.children)
    model = node.model if node.kind in ("run", "trip") else ""
    end_s = node.ended_s or (node.last_s if node.is_over else None)
    took = "" if end_s is None else duration(max(0.0, end_s - node.started_s))
    facts = (model, node.status, took, tokens(node.total_usage, sums=sums), money(node.total_cost, sums=sums))
    reason = node.reason if node.kind == "trip" and node.reason not in ("end", "tool_use") else ""
    return "  ".join(next(printable(each)) for each in (name_of(node), *facts, reason) if each)


def _facts(node: Node) -> Iterator[str]:
    when = datetime.fromtimestamp(node.started_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    yield f"run {next(printable(node.run_id))}, began {when}"
    yield next(printable(f"in {node.conversation}, records {node.seqs[0]}-{node.seqs[1]}"))
    if node.session_id:
        yield next(printable(f"session {node.session_id}"))
    path: list[str] = []
    above = node.parent
    while above is not None and len(path) < 20:
        path.append(name_of(above))
        above = above.parent
    if path:
        yield f"below {' > '.join(reversed(path))}  --run {shown((node.run.parent_run_id or '')[-ID:])}"
    usage = node.total_usage
    if usage.total_tokens:
        cached = f" ({usage.cache_read_tokens} from a cache, {usage.cache_write_tokens} into it)"
        read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        cached = cached if usage.cache_read_tokens or usage.cache_write_tokens else ""
        yield f"read {read} tokens{cached}, wrote {usage.output_tokens}"


def _place(tool: Node) -> tuple[int, int]:
    _, trip, index = tool.part.split("/")
    return int(trip), int(index)


def _resolution(answer: Resolution) -> str:
    match answer:
        case Edit():
            return f"approved with {json_text(answer.arguments)}"
        case Result():
            return json_text(answer.value)
        case Deny():
            return f"denied: {answer.message}" if answer.message else "denied"
        case Approve():
            return "approved"
