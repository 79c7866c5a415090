"""The page in a real browser: CONVIVE_BROWSER is a folder with the npm packages `puppeteer-core` and
`@sparticuz/chromium`."""

import json
import os
import subprocess
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from convive.agents import AlreadyResumed, peek
from convive.agents.http import app
from convive.bus import RunContext, memory_bus
from tests.agents.http_kit import ALL, TOKENS, site, token
from tests.agents.runs import Shop, use
from tests.agents.seats import ADA, grant, opened
from tests.agents.serving import serving

pytestmark = [pytest.mark.anyio, pytest.mark.browser]

OPEN = """
import chromium from '@sparticuz/chromium';
import puppeteer from 'puppeteer-core';

const [address, steps] = JSON.parse(await new Response(process.stdin).text());
const browser = await puppeteer.launch({ args: [...chromium.args, '--no-sandbox'], headless: 'shell',
  executablePath: await chromium.executablePath() });
const page = await browser.newPage(), troubles = [], seen = [];
page.on('pageerror', (error) => troubles.push(error.message));
page.on('dialog', (dialog) => { troubles.push(dialog.message()); dialog.dismiss(); });
page.on('console', (said) => { if (said.type() === 'error') troubles.push(said.text()); });
await page.setViewport({ width: 360, height: 640 });
await page.goto(address, { waitUntil: 'domcontentloaded' });
for (const [until, step] of steps) {
  await page.waitForFunction(until, { timeout: 10000 });
  seen.push(await page.evaluate(step));
}
const address_now = page.url();
await browser.close();
console.log(JSON.stringify({ seen, troubles, address: address_now }));
"""

LINES = "[...document.querySelectorAll('#said li')].map((line) => line.textContent)"
SAY = """(() => {
  document.querySelector('#as').value = 'Mara';
  document.querySelector('#text').value = 'Is that <i>all</i>?';
  document.querySelector('#say').requestSubmit();
})()"""
COVERED = """(() => {
  const foot = document.querySelector('footer').getBoundingClientRect();
  return [...document.querySelectorAll('#pending button, #pending input')].filter((one) => {
    document.activeElement.blur();
    scrollTo(0, scrollY + one.getBoundingClientRect().bottom - innerHeight + 20);  // below the foot
    one.focus();
    return one.getBoundingClientRect().bottom > foot.top && document.activeElement === one;
  }).map((one) => one.textContent);
})()"""
APPROVE = "[...document.querySelectorAll('#pending button')].find((one) => one.textContent === 'Approve').click()"


async def opens(address: str, *steps: tuple[str, str]) -> dict[str, Any]:
    """What a browser finds at an address: each step is what to wait for, and what to do then, in JavaScript."""
    command = ["node", "--input-type=module", "-e", OPEN]
    given = json.dumps([address, steps]).encode()
    run = partial(
        subprocess.run, command, input=given, capture_output=True, cwd=os.environ["CONVIVE_BROWSER"], timeout=60
    )
    done = await anyio.to_thread.run_sync(run)
    assert not done.returncode, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


async def test_a_conversation_is_heard_joined_and_answered_on_the_page() -> None:
    async with memory_bus() as bus, site(bus) as there:
        conversation = await opened(bus)
        turn = await grant(conversation)
        await conversation.say(await conversation.floor(), turn, "Figs, <b>first</b>.", RunContext.root())
        agent, _ = Shop().agent(use(("refund", {"amount": 50})), "There you are.")
        run = await agent.prompt("x", place=conversation)
        found = await opens(
            f"{there.url}/#token={ALL}",
            (f"{LINES}.length === 2", LINES),
            ("true", SAY),
            (f"{LINES}.length === 3", f"{LINES}[2]"),
            ("document.querySelector('#pending button')", "document.querySelector('#pending').innerText"),
            ("true", APPROVE),
            (
                "document.querySelector('#answer').textContent === 'Answered.'",
                "document.querySelector('#state').textContent",
            ),
            ("!document.querySelector('#pending button')", "true"),
        )
        with pytest.raises(AlreadyResumed):
            await peek(bus, run.run_id)
    before, _, said, asked, _, state, _ = found["seen"]
    assert before[1] == f"{ADA.title()}Figs, <b>first</b>."
    assert said == "Mara (aside)Is that <i>all</i>?"
    assert '"amount": 50' in asked
    assert state == "live"
    assert found["troubles"] == []
    assert found["address"] == f"{there.url}/"  # the token is in no history


async def test_a_page_without_a_token_asks_for_one_and_then_goes_on() -> None:
    async with memory_bus() as bus, site(bus) as there:
        conversation = await opened(bus)
        given = token(f"read:conversation:{conversation.id}")
        found = await opens(
            f"{there.url}/",
            (
                "!document.querySelector('#ask').hidden",
                f"document.querySelector('#token').value = '{given}'; document.querySelector('#ask').requestSubmit()",
            ),
            (f"{LINES}.length === 1", "document.querySelector('#topic').textContent"),
        )
    assert found["seen"][1] == "figs"


async def test_the_page_waits_longer_and_longer_for_a_server_that_only_tells_of_errors() -> None:
    asked = list[float]()
    async with memory_bus() as bus:
        inner = app(bus, TOKENS)
        await opened(bus)

        async def failing(scope: Scope, receive: Receive, send: Send) -> None:
            if not scope["path"].endswith("/events"):
                await inner(scope, receive, send)
                return
            asked.append(anyio.current_time())
            body = b'event: caught_up\ndata: {}\n\nevent: error\ndata: {"detail": "the bus is away"}\n\n'
            await Response(body, media_type="text/event-stream")(scope, receive, send)

        async with serving(failing) as url:
            await opens(
                f"{url}/#token={ALL}",
                (
                    "performance.getEntriesByType('resource').filter((one) => one.name.endsWith('/events')).length > 3",
                    "true",
                ),
            )
    pauses = [later - earlier for earlier, later in pairwise(asked)]
    assert pauses[2] > 2 * pauses[0]


async def test_an_address_names_the_conversation_as_well_as_the_token() -> None:
    async with memory_bus() as bus, site(bus) as there:
        wanted, latest = await opened(bus), await opened(bus)
        found = await opens(f"{there.url}/#token={ALL}&c={wanted.id}", (f"{LINES}.length === 1", "document.title"))
    assert latest.id != wanted.id
    assert found["seen"] == [f"{wanted.id} · Convive"]
    assert found["address"] == f"{there.url}/#c={wanted.id}"


async def test_the_page_fits_a_phone_and_hides_nothing_that_has_the_keyboard() -> None:
    async with memory_bus() as bus, site(bus) as there:
        conversation = await opened(bus)
        for text in ("word " * 200, "x" * 300):
            turn = await grant(conversation)
            await conversation.say(await conversation.floor(), turn, text, RunContext.root())
        for _ in range(3):
            agent, _ = Shop().agent(use(("refund", {"amount": 50})), "There you are.")
            await agent.prompt("x", place=conversation)
        found = await opens(
            f"{there.url}/#token={ALL}",
            ("document.querySelectorAll('#pending button').length === 6", "document.documentElement.scrollWidth"),
            ("true", COVERED),
            ("true", "[...document.querySelectorAll('#pending [role=group]')].map((one) => one.ariaLabel)"),
        )
    assert found["seen"] == [360, [], ["shop asks: refund"] * 3]
