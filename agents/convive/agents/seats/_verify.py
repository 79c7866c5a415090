"""Whether a conversation is whole: the pass of the bus, and the journals of its runs."""

from collections.abc import Mapping
from dataclasses import dataclass

from convive.agents.journal._verify_journals import JournalVerification, RunFate
from convive.bus import Conversation, ConversationId, Finding, FindingKind, Verification, Verified


@dataclass(frozen=True, slots=True)
class Verdict:
    """What `verify` has to say of a conversation."""

    conversation: ConversationId
    bus: Verified
    runs: Mapping[RunFate, int]
    """How many runs came to what."""
    counts: Mapping[FindingKind, int]
    """How many findings there are of each kind; none: the conversation is whole."""
    findings: tuple[Finding, ...]
    """Of each kind the first hundred, in the order of the log."""

    @property
    def whole(self) -> bool:
        """Whether nothing was found."""
        return not self.counts


async def verify(conversation: Conversation, until: int | None = None) -> Verdict:
    """Check a conversation as it is now, or as it was at a sequence number, in one pass over its records.

    Says that the records agree with one another and with the rules; not that somebody with write access did not write
    a whole history anew (compare heads for that), nor that the records' times are true. Raises BusUnavailable.
    """
    base = conversation.subjects.base
    checks = Verification(base)
    journals = JournalVerification(checks)
    async with conversation.log.read(f"{base}.>", until=until) as records:
        async for record in records:
            context = checks.apply(record)
            if context is not None:
                journals.apply(record, context)
    runs = journals.finish()
    seen = checks.finish()
    found = sorted(checks.findings.kept, key=lambda finding: finding.seq)
    return Verdict(conversation.id, seen, runs, dict(checks.findings.counts), tuple(found))
