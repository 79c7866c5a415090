"""A trace as lines of text: a tree, a bar for each node on one axis of time, tokens and cost; sums marked as sums."""

from collections.abc import Iterator
from dataclasses import dataclass

from convive.agents import Cost, Node, Trace, Usage
from convive.scenarios._transcript import shown

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

_BAR = 16
_NUMBERS = 32  # the columns behind the bar
_ERROR = 2_000


@dataclass(frozen=True, slots=True)
class TreeLine:
    """One line, and the status that may colour it."""

    text: str
    status: str


def tree_lines(
    trace: Trace, width: int, now_s: float, root: Node | None = None, *, latest: int | None = None
) -> list[TreeLine]:
    """The whole tree, or what is below one node, in lines of at most `width` columns (80 at least).

    `now_s` is where the bars of what is under way end. With `latest`, only so many of the roots, those begun last."""
    roots = trace.roots if root is None else [root]
    if latest is not None:
        roots = sorted(roots, key=lambda node: node.started_s)[-latest:]
    if not roots:
        return []
    first = min(node.started_s for node in roots)
    last = max(now_s if not node.is_over else node.last_s for top in roots for node in top.walk())
    axis = _Axis(first, max(last - first, 1e-6), now_s, max(width, 80))
    lines = list(_errors(roots))
    lines.append(TreeLine(f"{'':{axis.room}} {'':{_BAR}} {'took':>7} {'read+written':>13} {'cost':>10}", "head"))
    for node in roots:
        lines += _below(node, axis, "", "")
    return lines


@dataclass(frozen=True, slots=True)
class _Axis:
    first_s: float
    length_s: float
    now_s: float
    width: int

    @property
    def room(self) -> int:
        """Columns for the tree."""
        return self.width - _BAR - _NUMBERS - 2

    def bar(self, node: Node) -> str:
        """Where on the axis a node was at work, in eighths of a column at its end."""
        end_s = node.ended_s or (node.last_s if node.is_over else self.now_s)
        begin = int((node.started_s - self.first_s) / self.length_s * _BAR)
        begin = min(begin, _BAR - 1)
        end = max(begin + 1, round((end_s - self.first_s) / self.length_s * _BAR))
        return " " * begin + "━" * (min(end, _BAR) - begin) + " " * (_BAR - min(end, _BAR))


def _errors(roots: list[Node]) -> Iterator[TreeLine]:
    """What failed, before everything else: a long tree hides it."""
    for top in roots:
        for node in top.walk():
            if node.status in ("failed", "interrupted") or node.damage:
                why = node.error or "; ".join(node.damage) or "it never ended"
                yield TreeLine(f"{MARKS[node.status]} {_path(node)}: {shown(why)[:_ERROR]}", node.status)


def _path(node: Node) -> str:
    names: list[str] = []
    above: Node | None = node
    while above is not None:
        if above.kind != "conversation":
            names.append(_name(above))
        above = above.parent
    return " > ".join(reversed(names)) or node.name


def _name(node: Node) -> str:
    name = shown(node.name)
    if node.kind == "turn":
        name = f"{name} {node.seat}"
    if len(node.attempts) > 1:
        name += f" (attempt {len(node.attempts)})"
    if node.orphan:
        name += " (orphan)"
    return name


def _below(node: Node, axis: _Axis, lead: str, branch: str) -> Iterator[TreeLine]:
    yield TreeLine(_line(node, axis, f"{lead}{branch}"), node.status)
    lead += {"": "", "├ ": "│ ", "└ ": "  "}[branch]
    for number, child in enumerate(node.children, start=1):
        yield from _below(child, axis, lead, "└ " if number == len(node.children) else "├ ")


def _line(node: Node, axis: _Axis, lead: str) -> str:
    name = f"{lead}{MARKS[node.status]} {_name(node)}"
    if len(name) > axis.room:
        name = name[: axis.room - 1] + "…"
    sums = bool(node.children)
    tokens, cost = _tokens(node.total_usage, sums=sums), _money(node.total_cost, sums=sums)
    return f"{name:{axis.room}} {axis.bar(node)} {duration(_took(node, axis)):>7} {tokens:>13} {cost:>10}".rstrip()


def _took(node: Node, axis: _Axis) -> float:
    end_s = node.ended_s or (node.last_s if node.is_over else axis.now_s)
    return max(0.0, end_s - node.started_s)


def _tokens(usage: Usage, *, sums: bool) -> str:
    if not usage.total_tokens:
        return ""
    read = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    return f"{'Σ' if sums else ''}{_count(read)}+{_count(usage.output_tokens)}"


def _count(number: int) -> str:
    return (
        str(number) if number < 10_000 else f"{number / 1_000:.0f}k" if number < 10_000_000 else f"{number / 1e6:.0f}M"
    )


def _money(cost: Cost | None, *, sums: bool) -> str:
    if cost is None:
        return ""
    if not cost.complete and not cost.known:
        return "?"
    if cost.complete and not cost.known:
        return "free"
    return f"{'Σ' if sums else ''}{'≥' if not cost.complete else ''}${cost.known:.4f}"


def duration(seconds: float) -> str:
    """A length of time in a few characters."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 100 else f"{minutes / 60:.0f} h"
