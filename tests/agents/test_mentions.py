"""Mentions: who was named in a message, what is left of it, and the rule that sends it there."""

import doctest
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convive.agents.runs import _mentions
from convive.agents.runs._mentions import Mentions, mention_rule, parse_mentions

KNOWN = ("seo", "blog", "data-2")


@pytest.mark.parametrize(
    ("text", "slugs", "cleaned"),
    [
        ("@seo audit this", ("seo",), "audit this"),
        ("audit this @seo", ("seo",), "audit this"),
        ("please, @data-2 and @blog: go", ("data-2", "blog"), "please, and : go"),
        ("@SEO @Blog go", ("seo", "blog"), "go"),
        ("@blog @seo @Blog go", ("blog", "seo"), "go"),  # once each, in the order of the first
        ("@seo @blog", ("seo", "blog"), ""),  # one space between two mentions is enough
        ("@seo\t@blog\tx", ("seo", "blog"), "x"),
        ("(@seo) x", (), "(@seo) x"),
        ("@seo, audit!", ("seo",), ", audit!"),
        ("Is that so, @seo? Yes.", ("seo",), "Is that so, ? Yes."),
        ("a   @seo    b", ("seo",), "a b"),
        ("mail seo@blog.example or a@seo", (), "mail seo@blog.example or a@seo"),
        ("@seo-2 @seo_x @seox @seoé @-", (), "@seo-2 @seo_x @seox @seoé @-"),
        ("ask @nobody and @seo", ("seo",), "ask @nobody and"),
        ("@@seo @ seo @", (), "@@seo @ seo @"),
        ("@\u017feo @bl\u00f6g", (), "@\u017feo @bl\u00f6g"),  # letters that only casing makes ASCII
        ("", (), ""),
    ],
)
def test_known_mentions_are_found_and_taken_out_and_the_rest_stays(
    text: str, slugs: tuple[str, ...], cleaned: str
) -> None:
    """G50, C25: e-mail addresses, punctuation, duplicates, unknown names"""
    assert parse_mentions(text, KNOWN) == Mentions(slugs, cleaned)


def test_line_breaks_stay_and_so_do_lines_without_a_mention() -> None:
    """G50, C25: the code that somebody pastes under a mention keeps its shape"""
    code = "def f():\n    return  1\n"
    assert parse_mentions(f"@seo  look   at\n\n{code}", KNOWN).cleaned == f"look at\n\n{code.strip()}"
    assert parse_mentions("one\r\n@seo two\r\nthree", KNOWN).cleaned == "one\r\ntwo\r\nthree"
    assert parse_mentions("a\n@seo\nb", KNOWN).cleaned == "a\n\nb"


def test_a_text_without_mentions_comes_back_as_it_was() -> None:
    """G50: nothing is collapsed where nothing was taken out"""
    text = "  one\n\n  two   three @nobody \n"
    assert parse_mentions(text, KNOWN) == Mentions((), text)
    assert parse_mentions("@seo x", []) == Mentions((), "@seo x")


def test_known_names_may_be_written_in_any_case_and_come_back_in_lower_case() -> None:
    """G50"""
    assert parse_mentions("@seo go", ["SEO"]) == Mentions(("seo",), "go")


def test_a_message_of_mentions_alone_leaves_an_empty_text() -> None:
    """G52: that is legal, and the caller's to handle"""
    assert parse_mentions(" @seo \n @blog ", KNOWN) == Mentions(("seo", "blog"), "")


WORDS = st.sampled_from(
    ["@seo", "@SEO", "@blog", "@data-2", "@nobody", "a@seo", "@seo,", "(@seo", "word", "  ", " ", "\n", "\t", "é", "@"]
)
TEXTS = st.lists(WORDS, max_size=12).map("".join) | st.text(max_size=40)


@given(TEXTS, st.lists(st.sampled_from(KNOWN), unique=True))
def test_only_known_slugs_are_found_once_each_and_no_line_or_word_is_lost(text: str, known: list[str]) -> None:
    """G50, as properties of any text"""
    mentions = parse_mentions(text, known)
    assert set(mentions.slugs) <= set(known)
    assert len(set(mentions.slugs)) == len(mentions.slugs)
    assert _lines(mentions.cleaned) == _lines_without(text, mentions.slugs)


def _lines(text: str) -> list[list[str]]:
    return _stripped([line.split() for line in re.split(r"[\r\n]", text)])


def _lines_without(text: str, slugs: tuple[str, ...]) -> list[list[str]]:
    """What the rule says, word by word: a mention is cut off the front of a word, and what is behind it stays."""

    def rest(word: str) -> str:
        for slug in slugs:
            if word.lower().startswith(f"@{slug}") and not re.match(r"[\w-]", word[len(slug) + 1 :]):
                return word[len(slug) + 1 :]
        return word

    lines = re.split(r"[\r\n]", text)
    return _stripped([[left for word in line.split() if (left := rest(word))] for line in lines])


def _stripped(lines: list[list[str]]) -> list[list[str]]:
    while lines and not lines[0]:
        lines = lines[1:]
    while lines and not lines[-1]:
        lines = lines[:-1]
    return lines


def test_without_mentions_there_is_no_rule() -> None:
    """G51"""
    assert mention_rule([]) is None


def test_one_mention_makes_a_rule_with_one_call() -> None:
    """G51"""
    rule = mention_rule(["seo"])
    assert rule is not None
    assert 'run_agent({"agent_slug": "seo"})' in rule
    assert "1." not in rule
    assert rule.count("run_agent") == 1


def test_several_mentions_make_an_ordered_list_of_calls_of_the_tool_that_is_named() -> None:
    """G51: another tool and argument, in the order given, each once"""
    rule = mention_rule(["blog", "seo", "blog"], tool="dispatch", arg="who")
    assert rule is not None
    assert "\n".join(rule.splitlines()[1:3]) == '1. dispatch({"who": "blog"})\n2. dispatch({"who": "seo"})'
    assert "in this order" in rule


@given(st.lists(st.text(max_size=8), min_size=2, max_size=4, unique=True), st.text(max_size=8))
def test_what_stands_in_a_rule_cannot_break_out_of_its_call(slugs: list[str], arg: str) -> None:
    """G51: each call is one line of JSON, whatever the names"""
    rule = mention_rule(slugs, arg=arg)
    assert rule is not None
    calls = rule.splitlines()[1:-1]
    arguments = [call.removeprefix(f"{place}. run_agent(").removesuffix(")") for place, call in enumerate(calls, 1)]
    assert [json.loads(each) for each in arguments] == [{arg: slug} for slug in slugs]


def test_the_documented_examples_run() -> None:
    assert doctest.testmod(_mentions) == doctest.TestResults(failed=0, attempted=1)
