"""Why a run cannot be answered like this."""

from convive.bus import ConviveError


class ResumeRefused(ConviveError):
    """A run cannot be resumed like this. Nothing changed: what it waits for, it still waits for."""


class UnknownRun(ResumeRefused):
    """There is no such run here, or it is a run below another one, which is the one to resume."""


class NotSuspended(ResumeRefused):
    """The run does not wait for anything: it is under way, or over."""


class AlreadyResumed(NotSuspended):
    """This suspension was answered before: its token is used up, or somebody else was first."""


class SuspensionExpired(ResumeRefused):
    """The time to answer is over."""


class TurnOver(SuspensionExpired):
    """The run is that of a turn which is over: the floor was taken back while it waited."""


class BadAnswers(ResumeRefused):
    """A token or an answer that does not belong to this suspension, or does not fit what is waited for."""


class AgentChanged(ResumeRefused):
    """The run was suspended by an agent of another name, or with other tools. `force=True` resumes it all the same."""
