"""The page at `/`: one file, which the browser lets do nothing but what stands in it, and ask here."""

import re
from base64 import b64encode
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response


def page() -> Callable[[Request], Awaitable[Response]]:
    """The endpoint. It holds no data and takes no token: its script brings that along with each request."""
    text = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    headers = {"content-security-policy": policy(text)}

    async def show(_: Request) -> Response:
        return HTMLResponse(text, headers=headers)

    return show


def policy(text: str) -> str:
    """The content security policy for a page: its own script and style, by what they are, and requests to here."""
    script, style = (_hash(text, tag) for tag in ("script", "style"))
    return (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str, tag: str) -> str:
    (inner,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
    return f"'sha256-{b64encode(sha256(inner.encode()).digest()).decode()}'"
