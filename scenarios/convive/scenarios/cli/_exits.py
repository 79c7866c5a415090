"""Running a command: signals, errors and exit codes. No traceback reaches a person who did not ask for one."""

import asyncio
import errno
import os
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from convive.bus import ConviveError
from convive.scenarios.cli._transcript import shown

DEBUG_VARIABLE = "CONVIVE_DEBUG"
FAILED, INTERRUPTED, TERMINATED = 1, 130, 143
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def go(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a command to its end. Leaves with typer.Exit: 1 after an error, 130 after Ctrl-C, 143 after SIGTERM."""
    stopped_by: list[int] = []
    try:
        with _interruptible():
            asyncio.run(_until_stopped(work, stopped_by))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise typer.Exit(TERMINATED if stopped_by else INTERRUPTED) from None
    except SystemExit as left:
        if traceback.extract_tb(left.__traceback__)[-1].name == Console.on_broken_pipe.__name__:
            # Whoever read our output has seen enough (`convive trace ID | head`), says rich.
            raise typer.Exit(0) from None
        _say(f"what this command runs left with sys.exit({left.code!r}). What was acknowledged is kept.")
        raise typer.Exit(FAILED) from None
    except Exception as error:  # noqa: BLE001 - the last place where an error can be told to a person
        if all(isinstance(one, BrokenPipeError) for one in _leaves(error)):
            # Whoever read our output has seen enough (`convive replay ID | head`).
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        _tell(error)


@contextmanager
def _interruptible() -> Generator[None]:
    """Have Ctrl-C call off what runs in this block; before and behind it just ends the process (`convive._start`)."""
    told = signal.getsignal(signal.SIGINT)
    if told is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, told)


async def _until_stopped(work: Callable[[], Awaitable[None]], stopped_by: list[int]) -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - asyncio.run made one

    def stop() -> None:
        stopped_by.append(signal.SIGTERM)
        task.cancel()

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop)
    await work()


def _tell(error: Exception) -> NoReturn:
    if os.environ.get(DEBUG_VARIABLE):
        traceback.print_exception(error)
        raise typer.Exit(FAILED) from None
    known = list(dict.fromkeys(str(one) for one in _leaves(error) if isinstance(one, ConviveError)))
    for text in known[:3]:
        _say(text)
    if not known:
        first = next(_leaves(error))
        where = "".join(f" ({note})" for note in getattr(first, "__notes__", ()))
        if isinstance(first, OSError) and first.errno in _FULL:
            _say(f"{first.strerror}: standard output or the data directory takes no more. Make room and do it again.")
        else:
            _say(f"{type(first).__name__}: {first}{where}. Run it again with --debug for the traceback.")
    raise typer.Exit(FAILED) from None


def _say(text: str) -> None:
    """An error, as a terminal may show it: it can quote a server, or a record on the bus."""
    out = Console(stderr=True, highlight=False)
    lines = "\n".join(f"{' ' * (len(line) - len(line.lstrip()))}{shown(line)}" for line in text.splitlines())
    out.print(Text(f"convive: {lines}"), soft_wrap=not out.is_terminal)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    for one in inner:
        yield from _leaves(one)
    if not inner:
        yield error
