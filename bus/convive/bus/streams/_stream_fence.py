"""Who may write to a stream: the token on its fence."""

import secrets
from dataclasses import replace

from convive.bus.log._errors import Conflict, Fenced, NotAppended
from convive.bus.log._log import Draft, Guard, Log

TOKEN_BYTES = 128


class Fence:
    """The fence of one stream. Remembers where it saw it last: a guard at an older place is refused by the server."""

    def __init__(self, log: Log, subject: str, name: str) -> None:
        self._log = log
        self._subject = subject
        self._name = name
        self._seen: tuple[str, int] | None = None

    async def take(self, token: str, held: str | None) -> int:
        """See `Stream.fence`."""
        body = token.encode(errors="replace")
        if not token.strip() or len(body) > TOKEN_BYTES:
            raise NotAppended(f"stream {self._name}: a token has 1 to {TOKEN_BYTES} bytes. Nothing was changed.")
        # Without an id a rival's fence with the same token would be taken for this one.
        draft = Draft(self._subject, body, id=secrets.token_hex(8), replaces=True)
        while True:
            current, place = await self._current()
            if held is not None and held != current:
                raise Fenced(self._name, held, current)
            try:
                place = await self._log.append(replace(draft, guard=Guard(self._subject, place)))
            except Conflict:
                continue
            self._seen = token, place
            return place

    async def guard(self, token: str, *, fresh: bool = False) -> Guard:
        """What a record must be guarded with to be refused once the token does not count any more.

        `fresh`: look again, since a guard was refused. Raises Fenced.
        """
        if fresh or self._seen is None or self._seen[0] != token:
            self._seen = await self._current()
        holder, place = self._seen
        if holder != token:
            raise Fenced(self._name, token, holder)
        return Guard(self._subject, place)

    async def _current(self) -> tuple[str, int]:
        record = await self._log.last(self._subject)
        return (record.body.decode(errors="replace"), record.seq) if record else ("", 0)
