"""Task queues: Celery, RQ, arq, Dramatiq and taskiq carry the attribution of the request that queued a task.

So do the events of Gradio and the runs of LangGraph Server.

Each queue has one hook where a task is sent, which adds the headers of `byline.inject` to the message, and one where a
worker runs the task, which enters `byline.carried`. Retries, chains and follow-up tasks are sent within the block of
their task, or repeat its message. The modules of the queues are patched when the app imports them.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection, Mapping, MutableMapping
from contextlib import ExitStack, suppress
from contextvars import ContextVar
from typing import Any, Final, Literal

from byline import errors, request_context, shutdown
from byline.carrier import HEADER
from byline.carry import carried, inject_for
from byline.patching import Patches
from byline.settings import SettingError

#: Attribute of a message or of the state of a task in the worker with the `ExitStack` of the task's block.
_BLOCK: Final = "_byline_block"
#: Member of arq's messages, which have no headers.
_ARQ_MEMBER: Final = "byline"
#: Attribute of Gradio's events with their headers.
_HEADERS: Final = "_byline_headers"
_LANGGRAPH: Final = "langgraph"
#: Key of the configuration of LangGraph's runs. Keys that begin with two underscores are no metadata of LangChain.
_LANGGRAPH_KEY: Final = "__byline__"

_patches: Final = Patches(
    "byline.E132: tasks of %s are not attributed to the requests that queue them, because this version cannot be "
    "hooked (%s); use byline.inject and byline.carried"
)


def _add_headers(headers: MutableMapping[str, Any], purpose: str = "") -> None:
    """Add the attribution of the current request; a message that is sent again outside a request keeps its own."""
    try:
        if HEADER not in headers or request_context.current():
            inject_for(purpose, headers)
    except Exception:
        errors.report_internal_error("queue")


class _InTraceOfInstrumentation(carried):
    _trace_is_continued = True


def _enter(headers: Any, *, continues_trace: bool = True) -> ExitStack:
    """Enter the block in which the task of a message runs, until the returned stack is closed."""
    stack = ExitStack()
    try:
        block = carried if continues_trace else _InTraceOfInstrumentation
        stack.enter_context(block(headers if isinstance(headers, Mapping) else {}))
    except Exception:
        errors.report_internal_error("queue")
    return stack


def _leave(task: Any) -> None:
    stack = vars(task).pop(_BLOCK, None)
    # The headers of a message are attributes too, and may have this name.
    if isinstance(stack, ExitStack):
        stack.close()


def _flush() -> None:
    """Send waiting spans before the end of a worker process that ends without the exit of the interpreter."""
    shutdown.hooks.on_server_stop()


# Celery


def _patch_celery(patches: Patches, signals: Any) -> None:
    """Use the signals of ``celery.signals``."""

    def on_publish(headers: Any = None, **_: Any) -> None:
        if isinstance(headers, dict):
            _add_headers(headers)

    def on_start(task: Any = None, **_: Any) -> None:
        try:
            request = task.request
            # An eager task runs within the request that calls it.
            if not request.is_eager:
                # Instances have the headers of the message as attributes.
                has_span = _is_instrumented("celery", "CeleryInstrumentor")
                setattr(request, _BLOCK, _enter(vars(request), continues_trace=not has_span))
        except Exception:
            errors.report_internal_error("celery")

    def on_end(task: Any = None, **_: Any) -> None:
        try:
            _leave(task.request)
        except Exception:
            errors.report_internal_error("celery")

    def on_process_end(**_: Any) -> None:
        _flush()

    for name, receiver in (
        ("before_task_publish", on_publish),
        ("task_prerun", on_start),
        ("task_postrun", on_end),
        ("worker_process_shutdown", on_process_end),
    ):
        signal = getattr(signals, name)
        uid = f"byline.{name}"
        signal.connect(receiver, weak=False, dispatch_uid=uid)
        patches.on_unwrap(functools.partial(signal.disconnect, dispatch_uid=uid))


def _is_instrumented(module: str, name: str) -> bool:
    """Return whether an instrumentation of OpenTelemetry makes a span for each task, which continues the trace."""
    instrumentor = getattr(sys.modules.get(f"opentelemetry.instrumentation.{module}"), name, None)
    return instrumentor is not None and bool(instrumentor().is_instrumented_by_opentelemetry)


# RQ


def _patch_rq_queue(patches: Patches, module: Any) -> None:
    """Add the headers to the metadata of each job."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def create_job(self: Any, *args: Any, **kwargs: Any) -> Any:
            job = original(self, *args, **kwargs)
            if isinstance(job.meta, dict):
                # A copy, because one mapping of the app may be the metadata of many jobs.
                job.meta = dict(job.meta)
                _add_headers(job.meta)
            return job

        return create_job

    patches.wrap_method(module.Queue, "create_job", wrap)


def _patch_rq_worker(patches: Patches, module: Any) -> None:
    """Run each job, and its callbacks, in a block of its own."""

    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def perform_job(self: Any, job: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                with _enter(job.meta):
                    return original(self, job, *args, **kwargs)
            finally:
                # The process of one job ends by os._exit().
                if getattr(self, "_is_horse", False):
                    _flush()

        return perform_job

    owner = next((each for each in module.Worker.__mro__ if "perform_job" in vars(each)), module.Worker)
    patches.wrap_method(owner, "perform_job", wrap)


# arq: messages have no headers. The sender adds a member to the encoded mapping, which workers without byline ignore.

#: The blocks of the job whose message is decoded in this task.
_arq_job: Final[ContextVar[ExitStack | None]] = ContextVar("byline_arq_job", default=None)


def _patch_arq_sender(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def serialize_job(*args: Any, serializer: Callable[..., bytes] | None = None, **kwargs: Any) -> Any:
            headers: dict[str, Any] = {}
            _add_headers(headers)
            if not headers:
                return original(*args, serializer=serializer, **kwargs)

            def serialize(data: dict[str, Any]) -> bytes:
                if serializer is not None:
                    return serializer({**data, _ARQ_MEMBER: headers})
                import pickle

                return pickle.dumps({**data, _ARQ_MEMBER: headers})

            return original(*args, serializer=serialize, **kwargs)

        return serialize_job

    patches.wrap_method(module, "serialize_job", wrap)


def _patch_arq_worker(patches: Patches, module: Any) -> None:
    def wrap_run(original: Callable[..., Any]) -> Callable[..., Any]:
        async def run_job(self: Any, *args: Any, **kwargs: Any) -> Any:
            with ExitStack() as blocks:
                token = _arq_job.set(blocks)
                try:
                    return await original(self, *args, **kwargs)
                finally:
                    _arq_job.reset(token)

        return run_job

    def wrap_decode(original: Callable[..., Any]) -> Callable[..., Any]:
        def deserialize_job_raw(raw: bytes, *, deserializer: Callable[[bytes], Any] | None = None) -> Any:
            def deserialize(data: bytes) -> Any:
                if deserializer is not None:
                    message = deserializer(data)
                else:
                    import pickle

                    message = pickle.loads(data)  # noqa: S301 - arq's own format
                blocks = _arq_job.get()
                if blocks is not None:
                    blocks.push(_enter(message.get(_ARQ_MEMBER)))
                return message

            return original(raw, deserializer=deserialize)

        return deserialize_job_raw

    patches.wrap_method(module.Worker, "run_job", wrap_run)
    patches.wrap_method(module, "deserialize_job_raw", wrap_decode)


# Dramatiq


def _patch_dramatiq(patches: Patches, module: Any) -> None:
    """Hook the events of all brokers: before all other middlewares at the start, after them at the end."""

    def wrap_before(original: Callable[..., Any]) -> Callable[..., Any]:
        def emit_before(self: Any, signal: str, *args: Any, **kwargs: Any) -> Any:
            if signal == "enqueue":
                _add_headers(args[0].options)
            elif signal == "process_message":
                setattr(args[0], _BLOCK, _enter(args[0].options))
            return original(self, signal, *args, **kwargs)

        return emit_before

    def wrap_after(original: Callable[..., Any]) -> Callable[..., Any]:
        def emit_after(self: Any, signal: str, *args: Any, **kwargs: Any) -> Any:
            try:
                return original(self, signal, *args, **kwargs)
            finally:
                if signal in ("process_message", "skip_message"):
                    _leave(args[0])

        return emit_after

    patches.wrap_method(module.Broker, "emit_before", wrap_before)
    patches.wrap_method(module.Broker, "emit_after", wrap_after)


# taskiq


def _patch_taskiq_sender(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def prepare_message(self: Any, *args: Any, **kwargs: Any) -> Any:
            message = original(self, *args, **kwargs)
            _add_headers(message.labels)
            return message

        return prepare_message

    patches.wrap_method(module.AsyncKicker, "_prepare_message", wrap)


def _patch_taskiq_worker(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        async def run_task(self: Any, target: Any, message: Any, *args: Any, **kwargs: Any) -> Any:
            with _enter(message.labels):
                return await original(self, target, message, *args, **kwargs)

        return run_task

    patches.wrap_method(module.Receiver, "run_task", wrap)


# Gradio: events wait in a queue of the process, and run in tasks of the request that started the queue.


def _patch_gradio(patches: Patches, module: Any) -> None:
    def wrap_init(original: Callable[..., None]) -> Callable[..., None]:
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            original(self, *args, **kwargs)
            headers: dict[str, Any] = {}
            _add_headers(headers)
            setattr(self, _HEADERS, headers)

        return init

    def wrap_process(original: Callable[..., Any]) -> Callable[..., Any]:
        async def process_events(self: Any, events: Any, *args: Any, **kwargs: Any) -> Any:
            # A batch is the work of several callers, and is attributed to none of them.
            with _enter(getattr(events[0], _HEADERS, None) if len(events) == 1 else None):
                return await original(self, events, *args, **kwargs)

        return process_events

    patches.wrap_method(module.Event, "__init__", wrap_init)
    patches.wrap_method(module.Queue, "process_events", wrap_process)


# LangGraph Server: runs are stored, with their configuration, until a worker streams them. The server shows the
# configuration to its clients.


class _Run(carried):
    _purpose = _LANGGRAPH


def _patch_langgraph_sender(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., None]) -> Callable[..., None]:
        def inject_current_trace_context(configurable: dict[str, Any]) -> None:
            headers: dict[str, Any] = {}
            _add_headers(headers, _LANGGRAPH)
            # Also if there is nothing to add: neither the client nor a stored assistant may name somebody here.
            configurable[_LANGGRAPH_KEY] = headers
            original(configurable)

        return inject_current_trace_context

    patches.wrap_method(module, "inject_current_trace_context", wrap)


def _patch_langgraph_worker(patches: Patches, module: Any) -> None:
    def wrap(original: Callable[..., Any]) -> Callable[..., Any]:
        def stream_run(run: Any, *args: Any, **kwargs: Any) -> Any:
            headers: Any = {}
            with suppress(AttributeError, KeyError, TypeError):
                headers = run["kwargs"]["config"]["configurable"].get(_LANGGRAPH_KEY)
            return _Run(headers if isinstance(headers, Mapping) else {})(original)(run, *args, **kwargs)

        return stream_run

    patches.wrap_method(module, "stream_run", wrap)


#: Queue → the modules to patch, each with its function.
QUEUES: Final[Mapping[str, Mapping[str, Callable[[Patches, Any], None]]]] = {
    "celery": {"celery.signals": _patch_celery},
    "rq": {"rq.queue": _patch_rq_queue, "rq.worker": _patch_rq_worker},
    "arq": {"arq.connections": _patch_arq_sender, "arq.worker": _patch_arq_worker},
    "dramatiq": {"dramatiq.broker": _patch_dramatiq},
    "gradio": {"gradio.queueing": _patch_gradio},
    _LANGGRAPH: {
        "langgraph_api.models.run": _patch_langgraph_sender,
        "langgraph_api.worker": _patch_langgraph_worker,
    },
    "taskiq": {"taskiq.kicker": _patch_taskiq_sender, "taskiq.receiver.receiver": _patch_taskiq_worker},
}


def validate_queues(queues: Literal["auto"] | Collection[str]) -> frozenset[str]:
    """Return the names of the queues to hook. Raises `SettingError` ``byline.E133``."""
    names = frozenset(QUEUES) if queues == "auto" else frozenset(queues)
    if (isinstance(queues, str) and queues != "auto") or not names <= QUEUES.keys():
        raise SettingError("byline.E133", f"queues={queues!r}", f'pass "auto", or some of {", ".join(sorted(QUEUES))}')
    return names


def install(queues: frozenset[str]) -> None:
    """Hook these queues and no others, now or when they are imported."""
    uninstall()
    for name in sorted(queues):
        for module, patch in QUEUES[name].items():
            _patches.patch_when_imported(name, module, patch)


def uninstall() -> None:
    """Unhook all queues."""
    _patches.unwrap_all()
