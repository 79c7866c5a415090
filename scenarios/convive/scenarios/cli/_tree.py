"""A trace as lines of text: a tree, a bar for each node on one axis of time, tokens and cost; sums marked as sums."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError
from rich.cells import set_cell_size

from convive.agents import Cost, Node, Trace, Usage
from convive.scenarios.cli._transcript import shown

MARKS = {
    "running": "…",
    "waiting": "?",
    "ok": "✓",
    "passed": "-",
    "failed": "✗",
    "cancelled": "x",
    "revoked": "x",
    "interrupted": "!",
}
"""How a status is shown."""

ID = 6
"""How many characters of the end of a run's id a line shows. The beginning is a time, and alike in runs of a moment."""

LONG = 200
"""More lines than that are folded, as far as it goes."""

_NAMES = 29  # columns of a name in a terminal of 80, which has room for a bar of 10
_BAR, _LONGEST_BAR = 10, 40
_NARROWEST = 36
_COLUMNS = (("took", 7, 0), ("read+written", 13, 66), ("cost", 10, 48), ("run", ID, 0))
"""What stands beside name and bar, in how many columns, and the narrowest terminal that has room for it."""
_LEADS = {"": "", "├ ": "│ ", "└ ": "  "}
_LONG_NEWS = 300
_STEPS = 20  # of a path, from its end
_MOST = 1_000_000_000_000  # tokens: a log may hold any number
_NEWS = 20


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One line, and the status that may colour it."""

    text: str
    status: str


def tree_lines(
    trace: Trace,
    width: int,
    now_s: float,
    root: Node | None = None,
    depth: int | None = None,
    long: int = LONG,
    *,
    latest: int | None = None,
) -> list[TreeLine]:
    """The whole tree, or what is below one node, in lines of at most `width` columns (36 at least). Below 80 there is
    less of a bar, then no tokens, then no cost.

    `now_s` is where the bars of what is under way end. `depth` levels below the top are unfolded; without it as many
    as make `long` lines, and one in any case. What failed, waits or goes on is unfolded wherever it is. With `latest`,
    only so many of the roots, those begun last.
    """
    roots = trace.roots if root is None else [root]
    if latest is not None:
        roots = sorted(roots, key=lambda node: node.started_s)[-latest:]
    if not roots:
        return []
    tree = _Tree(roots, now_s, max(width, _NARROWEST))
    depth = tree.fitting(long) if depth is None else depth
    lines = list(_news(roots))
    lines.append(TreeLine(tree.head(), "head"))
    folded = 0
    for node, lead, below in tree.rows(depth):
        lines.append(TreeLine(tree.line(node, lead, below), node.status))
        folded += below
    if folded:
        lines.append(
            TreeLine(f"+n: {folded} lines are folded. --depth 99 unfolds all, --run ID opens one run.", "head")
        )
    return lines


def clipped(lines: list[TreeLine], height: int) -> list[TreeLine]:
    """What of the lines a screen has room for: the beginning, with what failed, and the end, where things go on."""
    if len(lines) <= height:
        return lines
    head = min(height // 3, next((at + 2 for at, line in enumerate(lines) if line.status == "head"), 2))
    tail = max(1, height - head - 1)
    left_out = TreeLine(f"  … {len(lines) - head - tail} lines …", "head")
    return [*lines[:head], left_out, *lines[-tail:]]


@dataclass(frozen=True, slots=True)
class _Sum:
    """A node and all below it."""

    usage: Usage
    cost: Cost | None
    last_s: float
    nodes: int
    matters: bool
    """Whether something below it failed, waits, or goes on."""


class _Tree:
    """What all lines have in common: the columns, the axis of time, the sums."""

    def __init__(self, roots: list[Node], now_s: float, width: int) -> None:
        self._roots = roots
        self._now_s = now_s
        self._columns = [(title, size) for title, size, least in _COLUMNS if width >= least]
        beside = sum(size + 1 for _, size in self._columns)
        left = width - beside - _NAMES - 1 - _BAR  # half of it is the bar's, in a wide terminal
        self._bar = max(0, _BAR + left) if left < 0 else min(_LONGEST_BAR, _BAR + left // 2)
        self._room = width - beside - (self._bar + 1 if self._bar else 0)
        self._sums: dict[int, _Sum] = {}
        for top in roots:
            for node in reversed(list(top.walk())):  # children before what they are a part of
                self._sums[id(node)] = _sum(node, self._sums)
        self._first_s = min(node.started_s for top in roots for node in top.walk())  # clocks of servers differ
        over = all(node.is_over for top in roots for node in top.walk())
        last_s = max(self._sums[id(top)].last_s for top in roots)
        self._length_s = max((last_s if over else max(now_s, last_s)) - self._first_s, 1e-6)

    def head(self) -> str:
        titles = {title: title for title, _ in self._columns}
        return f"{'':{self._room}}{self._bar_and_numbers('', titles)}"

    def fitting(self, long: int) -> int:
        """How many levels make at most `long` lines."""
        depth = 1
        deepest = max((len(lead) // 2 for _, lead, _ in self.rows(1_000_000)), default=0)
        while depth < deepest and sum(1 for _ in self.rows(depth + 1)) <= long:
            depth += 1
        return depth

    def rows(self, depth: int) -> Iterator[tuple[Node, str, int]]:
        """Each node that is shown, what leads to it, and how many below it are folded."""
        rest: list[tuple[Node, str, str]] = [(node, "", "") for node in reversed(self._roots)]
        while rest:
            node, lead, branch = rest.pop()
            unfolded = len(lead + branch) < 2 * depth or self._sums[id(node)].matters
            yield node, f"{lead}{branch}", 0 if unfolded else self._sums[id(node)].nodes - 1
            if unfolded:
                lead = f"{lead}{_LEADS[branch]}"[: self._room]
                last = len(node.children) - 1
                rest += [(node.children[at], lead, "└ " if at == last else "├ ") for at in range(last, -1, -1)]

    def line(self, node: Node, lead: str, folded: int) -> str:
        total, sums = self._sums[id(node)], bool(node.children)
        name = f"{lead}{MARKS[node.status]} {name_of(node)}"
        count = f" +{folded}" if folded else ""
        end_s = node.ended_s or (total.last_s if node.is_over else self._now_s)
        took = duration(max(0.0, end_s - node.started_s))
        told = {
            "took": took,
            "read+written": tokens(total.usage, sums=sums),
            "cost": money(total.cost, sums=sums),
            "run": _id(node),
        }
        beside = self._bar_and_numbers(self._stretch(node, end_s) if self._bar else "", told)
        return f"{cell(name, self._room - len(count))}{count}{beside}".rstrip()

    def _bar_and_numbers(self, bar: str, told: Mapping[str, str]) -> str:
        stretch = f" {bar:{self._bar}}" if self._bar else ""
        return stretch + "".join(f" {told[title]:>{size}}" for title, size in self._columns)

    def _stretch(self, node: Node, end_s: float) -> str:
        """Where on the axis a node was at work."""
        begin = int((node.started_s - self._first_s) / self._length_s * self._bar)
        begin = min(max(begin, 0), self._bar - 1)
        end = max(begin + 1, round((end_s - self._first_s) / self._length_s * self._bar))
        return f"{' ' * begin}{'━' * (min(end, self._bar) - begin)}".ljust(self._bar)


def _sum(node: Node, sums: Mapping[int, _Sum]) -> _Sum:
    usage, cost = node.usage, node.cost
    last_s, nodes, matters = node.ended_s or node.started_s, 1, False
    for child in node.children:
        below = sums[id(child)]
        usage = usage + below.usage if below.usage.total_tokens else usage
        cost = below.cost if cost is None else cost if below.cost is None else cost + below.cost
        last_s, nodes = max(last_s, below.last_s), nodes + below.nodes
        matters = matters or below.matters or _matters(child)
    return _Sum(usage, cost, last_s, nodes, matters)


def _matters(node: Node) -> bool:
    return not node.is_over or node.status in ("failed", "interrupted", "revoked") or bool(node.damage)


def _news(roots: list[Node]) -> Iterator[TreeLine]:
    """What failed or waits for somebody, before everything else: a long tree hides it."""
    nodes = [node for top in roots for node in top.walk()]
    found = [node for node in nodes if _went_wrong(node)]
    for node in found[:_NEWS]:
        why = error_of(node.error) or "; ".join(damage_of(node)) or (node.detail if node.status == "revoked" else "")
        mark = MARKS[node.status] if node.status in ("failed", "revoked") else MARKS["interrupted"]
        style = "failed" if node.status == "failed" else "interrupted"
        yield TreeLine(_cut(f"{mark} {_where(node)}: {shown(why) or 'it never ended'}"), style)
    if len(found) > _NEWS:
        yield TreeLine(f"  … and {len(found) - _NEWS} more that went wrong, unfolded in the tree", "failed")
    waiting = [node for node in nodes if node.status == "waiting" and node.kind == "tool"]
    for node in waiting[:_NEWS]:
        yield TreeLine(_cut(f"{MARKS['waiting']} {_where(node)} waits for an answer: convive pending"), "waiting")


def _went_wrong(node: Node) -> bool:
    """Whether it is news that it did, and not only a part of what was broken off."""
    if node.status == "interrupted" and not node.damage:
        return node.parent is None or node.parent.status not in ("interrupted", "revoked", "cancelled", "failed")
    return node.status in ("failed", "revoked") or bool(node.damage)


def damage_of(node: Node) -> list[str]:
    """What could not be read of a node, each reason once."""
    places: dict[str, list[str]] = {}
    for each in node.damage:
        place, colon, why = each.partition(": ")
        places.setdefault(why if colon else each, []).extend([place.removeprefix("record ")] if colon else [])
    return [f"{_records(at)}: {why}" if at else why for why, at in places.items()]


def _records(places: list[str]) -> str:
    more = f" and {len(places) - 5} more" if len(places) > 5 else ""
    return f"record{'s' if len(places) > 1 else ''} {', '.join(places[:5])}{more}"


def _where(node: Node) -> str:
    names: list[str] = []
    above: Node | None = node
    while above is not None and len(names) < _STEPS:
        if above.kind != "conversation":
            names.append(name_of(above))
        above = above.parent
    return f"{' > '.join(reversed(names)) or name_of(node)} ({shown(node.run_id[-ID:])})"


def _cut(text: str) -> str:
    return text if len(text) <= _LONG_NEWS else f"{text[: _LONG_NEWS - 1]}…"


def error_of(text: str) -> str:
    """An error in words; of a tool's, which a model reads as JSON, its type and message, or why it was denied."""
    try:
        fault = _ToolFault.model_validate_json(text) if text.startswith("{") else _ToolFault()
    except ValidationError:
        return text
    words = fault.message or fault.reason
    return f"{fault.type}: {words}" if words and fault.type else words or text


class _ToolFault(BaseModel):
    message: str = ""
    type: str = ""
    reason: str = ""


def name_of(node: Node) -> str:
    """What a node is called, with what is odd about it."""
    name = shown(node.name)
    if node.kind == "turn":
        name = f"{name} {shown(node.seat)}"
    if len(node.attempts) > 1:
        name += f" (attempt {len(node.attempts)})"
    if node.orphan:
        name += " (orphan)"
    if node.damage:
        name += " (damaged)"
    return name


def _id(node: Node) -> str:
    """The end of its run's id, where that is another than the line above it has."""
    return "" if node.parent is not None and node.parent.run_id == node.run_id else shown(node.run_id[-ID:])


def cell(text: str, room: int) -> str:
    """Exactly so many columns."""
    cut = set_cell_size(text, room)
    return cut if cut.rstrip() == text.rstrip() else f"{set_cell_size(text, room - 1)}…"


def tokens(usage: Usage, *, sums: bool) -> str:
    """Tokens read and written, in a few characters."""
    if not usage.total_tokens:
        return ""
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return f"{'Σ' if sums else ''}{_count(read)}+{_count(usage.output_tokens)}"


def _count(number: int) -> str:
    if number < 10_000:
        return str(number)
    if number < 10_000_000:
        return f"{number / 1_000:.0f}k"
    return f"{number // 1_000_000}M" if number < _MOST else f">{_MOST // 1_000_000}M"


def money(cost: Cost | None, *, sums: bool = False) -> str:
    """An amount in a few characters: `≥` when a part of it is unknown, `?` when all of it is."""
    if cost is None:
        return ""
    if not cost.known:
        return "free" if cost.complete else "?"
    tiny = 0 < cost.known < 0.0001
    amount = "0.0001" if tiny else f"{cost.known:.4f}" if cost.known < 1000 else f"{cost.known:.0f}"
    amount = f"${amount}" if cost.currency == "USD" else f"{amount} {cost.currency}"
    return f"{'Σ' if sums else ''}{'' if cost.complete else '≥'}{'<' if tiny else ''}{amount}"


def duration(seconds: float) -> str:
    """A length of time in a few characters."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"
