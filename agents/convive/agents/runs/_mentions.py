"""Mentions in a chat: `@slug` names who is to answer. Text in, text out; who is called is up to the caller."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = re.compile(r"(?<!\S)@([A-Za-z0-9-]+)(?![\w-])")
_LINE = re.compile(r"[^\r\n]+")
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True, slots=True)
class Mentions:
    """Who was mentioned, in lower case and in the order of their first mention; and the text without the mentions.

    `cleaned` may be empty, when a message is nothing but mentions.
    """

    slugs: tuple[str, ...]
    cleaned: str


def parse_mentions(text: str, known: Iterable[str]) -> Mentions:
    """Find `@slug` for each of the `known` slugs, in any case, and take them out of the text.

    A mention stands at the start or after white space, and the character behind its slug is neither part of a word
    nor a hyphen: `mail@seo` and `@seo_x` are none, `@seo,` leaves its comma. What is not known stays as it is. In a
    line that held a mention, white space is collapsed; line breaks stay, and so does every other line. A text without
    mentions comes back unchanged. Slugs are of ASCII letters, digits and hyphens: another `known` name is never found.

    >>> parse_mentions("@seo audit this, @Blog", ["seo", "blog"])
    Mentions(slugs=('seo', 'blog'), cleaned='audit this,')
    """
    wanted = {slug.lower() for slug in known}
    found: dict[str, None] = {}

    def take(token: re.Match[str]) -> str:
        slug = token[1].lower()
        if slug not in wanted:
            return token[0]
        found[slug] = None
        return ""

    def clean(line: re.Match[str]) -> str:
        left = _TOKEN.sub(take, line[0])
        return line[0] if left == line[0] else _SPACE.sub(" ", left).strip()

    cleaned = _LINE.sub(clean, text)
    return Mentions(tuple(found), cleaned.strip() if found else text)


def mention_rule(slugs: Iterable[str], tool: str = "run_agent", arg: str = "agent_slug") -> str | None:
    """A rule for the system prompt of a model that hands work to agents: call these, in this order. None without any.

    A model can still disobey. Where the order must hold, call the agents yourself.
    """
    calls = [f"{tool}({json.dumps({arg: slug})})" for slug in dict.fromkeys(slugs)]
    if not calls:
        return None
    if len(calls) == 1:
        return (
            f"The user has asked for one agent by name. Make this call before you answer: {calls[0]}. "
            "The user's choice goes before your own judgement: do not answer in its place, and call no other one first."
        )
    steps = "\n".join(f"{number}. {call}" for number, call in enumerate(calls, 1))
    return (
        f"The user has asked for {len(calls)} agents by name. Make these calls before you answer, one at a time and in "
        f"this order, each after the one before it has returned:\n{steps}\n"
        "The user's choice goes before your own judgement: leave none out, and call no other agent in between."
    )
