"""The WSGI middleware: servers, apps and response bodies keep everything that PEP 3333 provides."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from wsgiref.util import FileWrapper
from wsgiref.validate import validator

import pytest
from flask import Flask, Response, request, stream_with_context
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import byline
from byline import request_context
from byline.genai import attributes as names
from byline.wsgi import AttributionMiddleware
from tests.support import Sent, call_model, claim, environ_of, run_wsgi, tracer

Finished = Callable[[], Sequence[ReadableSpan]]
SENT = claim({"user": "ada"}, headers=[("x-session-id", "s"), ("trace", "w")])
APP_SPANS = pytest.mark.parametrize("app_span", ["auto", False])


def signed(finished: Finished, times: int = 1) -> None:
    spans = [span for span in finished() if "gen_ai.operation.name" in (span.attributes or {})]
    assert len(spans) == times
    for span in spans:
        attributes = span.attributes or {}
        assert (attributes[names.SESSION_ID], attributes[names.TRACE_ID]) == ("s", "w")
        assert attributes[names.USER_ID] == "ada"


def read(environ: Any) -> None:
    environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))


class Body:
    """A response body that notes its calls."""

    def __init__(self, *chunks: bytes, fail: BaseException | None = None) -> None:
        self._chunks = iter(chunks)
        self._fail = fail
        self.closed = 0
        self.heard: list[str | None] = []

    def __iter__(self) -> Iterator[bytes]:
        self.heard.append(byline.current().session_id)
        return self

    def __next__(self) -> bytes:
        self.heard.append(byline.current().session_id)
        for chunk in self._chunks:
            call_model()
            return chunk
        if self._fail is not None:
            raise self._fail
        raise StopIteration

    def close(self) -> None:
        self.heard.append(byline.current().session_id)
        self.closed += 1


def answers(body: Any, status: str = "200 OK") -> Any:
    def app(environ: Any, start_response: Any) -> Any:
        read(environ)
        start_response(status, [("Content-Type", "text/plain")])
        return body

    return app


@APP_SPANS
def test_every_step_of_the_body_and_close_run_in_the_requests_context(app_span: Any, finished: Finished) -> None:
    body = Body(b"a", b"b")
    run = run_wsgi(AttributionMiddleware(answers(body), app_span=app_span), SENT)
    assert (run.body, body.closed) == (b"ab", 1)
    assert body.heard == ["s"] * 5
    assert request_context.current_context() is None
    signed(finished, 2)


@APP_SPANS
def test_a_generator_keeps_the_byline(app_span: Any, finished: Finished) -> None:
    finals = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        read(environ)
        start_response("200 OK", [])
        try:
            yield b"a"
            call_model()
            yield b"b"
        finally:
            finals.append(byline.current().session_id)

    assert run_wsgi(AttributionMiddleware(app, app_span=app_span), SENT).body == b"ab"
    assert finals == ["s"]
    signed(finished)


def test_a_generator_that_the_server_leaves_early() -> None:
    """The client has gone: the server closes, in the request's context, exactly once."""
    finals = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"a"
            yield b"b"
        finally:
            finals.append(byline.current().session_id)

    answer: Any = AttributionMiddleware(app)(environ_of(SENT), lambda *_: None)
    assert next(iter(answer)) == b"a"
    answer.close()
    answer.close()
    assert finals == ["s"]
    assert request_context.current_context() is None


def test_body_without_close_ends_the_server_span(finished: Finished, caplog: Any) -> None:
    """As test clients do if nobody reads the response; OpenTelemetry logs no complaint."""
    app = AttributionMiddleware(answers(Body(b"a")))
    app(environ_of(SENT), lambda *_: None)
    run_wsgi(app, SENT)
    assert [span.kind for span in finished()].count(trace.SpanKind.SERVER) == 2
    assert caplog.text == ""


def test_a_body_that_is_collected_waits_for_no_lock(exporter: InMemorySpanExporter, monkeypatch: Any) -> None:
    """A collection may begin in a thread that holds it."""
    asked: list[str] = []

    class Held:
        def __enter__(self) -> None:
            asked.append("lock")

        def __exit__(self, *_: Any) -> None:
            pass

    answer = AttributionMiddleware(answers(Body(b"a")))(environ_of(SENT), lambda *_: None)
    monkeypatch.setattr(exporter, "_lock", Held())
    del answer
    assert asked == []
    byline.flush()
    assert asked == ["lock"]


def test_a_body_that_is_closed_before_it_was_read() -> None:
    body = Body(b"a")
    answer: Any = AttributionMiddleware(answers(body))(environ_of(SENT), lambda *_: None)
    answer.close()
    assert (body.closed, body.heard) == (1, ["s"])


@APP_SPANS
def test_a_list_keeps_its_length(app_span: Any) -> None:
    """Wsgiref and others set Content-Length by it."""
    chunks = [b"a", b"b"]
    for body in (chunks, tuple(chunks)):
        run = run_wsgi(AttributionMiddleware(answers(body), app_span=app_span), SENT)
        assert run.answer is body


@APP_SPANS
def test_a_file_wrapper_reaches_the_server(app_span: Any) -> None:
    """Which sends the file by itself, without Python."""
    body = FileWrapper(io.BytesIO(b"content"))
    environ = environ_of(SENT) | {"wsgi.file_wrapper": FileWrapper}
    run = run_wsgi(AttributionMiddleware(answers(body), app_span=app_span), SENT, environ)
    assert run.answer is body
    assert run.body == b"content"


def test_a_wrapper_that_is_no_class() -> None:
    """UWSGI's is a function: its result is a body like any other."""
    environ = environ_of(SENT) | {"wsgi.file_wrapper": lambda stream, *_: [stream.read()]}
    run = run_wsgi(AttributionMiddleware(answers(iter([b"x"]))), SENT, environ)
    assert run.body == b"x"


@APP_SPANS
@pytest.mark.parametrize("status", ["200 OK", "204", "418 I'm a teapot", "599 "])
def test_status_is_unchanged(status: str, app_span: Any) -> None:
    """Also without a reason phrase, which some apps leave out."""
    run = run_wsgi(AttributionMiddleware(answers([b""], status), app_span=app_span), SENT)
    assert run.view() == (status, [("Content-Type", "text/plain")], [b""], [], None)


@APP_SPANS
def test_write_and_exc_info(app_span: Any) -> None:
    """The old ``write`` callable, and a second ``start_response`` in an except block."""

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        import sys

        start_response("200 OK", [("a", "b")])
        try:
            raise LookupError
        except LookupError:
            write = start_response("500 Oh", [("c", "d")], sys.exc_info())
        write(b"written ")
        return [b"returned"]

    run = run_wsgi(AttributionMiddleware(app, app_span=app_span), SENT)
    assert run.view() == ("500 Oh", [("c", "d")], [b"returned"], [b"written "], None)


@APP_SPANS
def test_exc_info_after_the_headers_went_out(app_span: Any) -> None:
    """The server raises it, through the app and the middleware."""

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        import sys

        start_response("200 OK", [])
        yield b"a"
        try:
            raise LookupError("late")
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())

    run = run_wsgi(AttributionMiddleware(app, app_span=app_span), SENT)
    assert repr(run.error) == "LookupError('late')"
    assert run.body == b"a"
    assert request_context.current_context() is None


class Stop(BaseException):
    """As servers raise to end a worker."""


@APP_SPANS
@pytest.mark.parametrize("error", [LookupError("a"), Stop()])
def test_errors_before_the_body(error: BaseException, app_span: Any, finished: Finished) -> None:
    def app(environ: Any, start_response: Any) -> Any:
        raise error

    with pytest.raises(type(error)) as caught:
        AttributionMiddleware(app, app_span=app_span)(environ_of(SENT), lambda *_: None)
    assert caught.value is error
    assert request_context.current_context() is None
    assert len(finished()) == (0 if app_span is False else 1)


@APP_SPANS
@pytest.mark.parametrize("error", [LookupError("a"), Stop(), GeneratorExit()])
def test_errors_inside_the_body(error: BaseException, app_span: Any, finished: Finished) -> None:
    body = Body(b"a", fail=error)
    answer: Any = AttributionMiddleware(answers(body), app_span=app_span)(environ_of(SENT), lambda *_: None)
    assert next(answer) == b"a"
    with pytest.raises(type(error)) as caught:
        next(answer)
    answer.close()
    assert caught.value is error
    assert body.closed == 1
    assert request_context.current_context() is None
    assert len(finished()) == (1 if app_span is False else 2)


@APP_SPANS
def test_errors_in_close(app_span: Any, finished: Finished) -> None:
    class Bad(Body):
        def close(self) -> None:
            raise LookupError("close")

    run = run_wsgi(AttributionMiddleware(answers(Bad(b"a")), app_span=app_span), SENT)
    assert repr(run.error) == "LookupError('close')"
    assert run.body == b"a"
    assert len(finished()) == (1 if app_span is False else 2)


def test_errors_are_on_the_server_span(finished: Finished) -> None:
    run = run_wsgi(AttributionMiddleware(answers(Body(b"a", fail=LookupError("inside")))), SENT)
    assert repr(run.error) == "LookupError('inside')"
    span = finished()[-1]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]


@pytest.mark.parametrize("body", [[b"a", b"b"], (b"a",), iter([b"a"]), Body(b"a"), [], iter(())])
@APP_SPANS
def test_wsgirefs_validator_passes_inside_and_outside(body: Any, app_span: Any) -> None:
    """Every rule of PEP 3333, as the standard library checks them, on both sides of the middleware."""

    def app(environ: Any, start_response: Any) -> Any:
        stream = environ["wsgi.input"]
        assert stream.read(2) == b'{"'
        assert stream.readline(3) == b"use"
        assert stream.readlines(1)
        assert list(stream) == []
        start_response("200 OK", [("Content-Type", "text/plain")])
        return body

    inner: Any = validator(app)
    run = run_wsgi(validator(AttributionMiddleware(inner, app_span=app_span)), SENT)
    assert run.error is None
    assert run.status == "200 OK"


def test_nothing_is_left_on_the_servers_thread(finished: Finished) -> None:
    """Requests of one thread, one after another, also if a body is dropped or fails."""
    heard = []

    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        heard.append(byline.current().session_id)
        start_response("200 OK", [])
        yield b"a"
        if environ["PATH_INFO"] == "/fail":
            raise LookupError
        yield b"b"

    door = AttributionMiddleware(app)
    for path, headers in (("/a", [("x-session-id", "1")]), ("/fail", [("x-session-id", "2")]), ("/b", [])):
        run_wsgi(door, Sent(path=path, headers=headers))
        assert request_context.current_context() is None
        assert not trace.get_current_span().get_span_context().is_valid
        call_model()
    dropped: Any = door(environ_of(Sent(headers=[("x-session-id", "3")])), lambda *_: None)
    next(dropped)
    call_model()
    dropped.close()
    assert heard == ["1", "2", None, "3"]
    outside = [span for span in finished() if span.name == "chat gpt-4o"]
    assert [dict(span.attributes or {}) for span in outside] == [{"gen_ai.operation.name": "chat"}] * 4


def test_context_of_the_app_does_not_reach_the_server() -> None:
    """Such as a span that it attaches and never detaches."""

    def app(environ: Any, start_response: Any) -> list[bytes]:
        otel_context.attach(otel_context.set_value("apps own", "value"))
        start_response("200 OK", [])
        return []

    run_wsgi(AttributionMiddleware(app), SENT)
    assert otel_context.get_value("apps own") is None


def test_context_of_the_server_reaches_the_app() -> None:
    heard = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        heard.append(otel_context.get_value("servers own"))
        start_response("200 OK", [])
        return []

    token = otel_context.attach(otel_context.set_value("servers own", "value"))
    run_wsgi(AttributionMiddleware(app, app_span=False), SENT)
    otel_context.detach(token)
    assert heard == ["value"]


def flask_app() -> Any:
    app = Flask("app")
    app.wsgi_app = AttributionMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return app


def post(app: Any) -> Any:
    return app.test_client().post("/", json={"user": "ada"}, headers={"x-session-id": "s", "trace": "w"})


def test_flask_streams_and_closes_with_the_byline(finished: Finished) -> None:
    app = flask_app()

    @app.post("/")
    def chat() -> Response:
        request.get_json()

        def body() -> Iterator[str]:
            yield "a"
            call_model()
            yield request.method

        response = Response(stream_with_context(body()))
        response.call_on_close(call_model)
        return response

    with post(app) as answer:
        assert answer.text == "aPOST"
    signed(finished, 2)


def test_flask_hooks_carry_the_byline(finished: Finished) -> None:
    app = flask_app()

    @app.before_request
    def before() -> None:
        request.get_json()
        call_model()

    @app.after_request
    def after(response: Response) -> Response:
        call_model()
        return response

    @app.teardown_request
    def teardown(_: Any) -> None:
        call_model()

    @app.post("/")
    def chat() -> str:
        call_model()
        return "ok"

    assert post(app).text == "ok"
    signed(finished, 4)


def test_flask_async_views_carry_the_byline(finished: Finished) -> None:
    app = flask_app()

    @app.post("/")
    async def chat() -> str:
        request.get_json()
        call_model()
        return "ok"

    pytest.importorskip("asgiref")
    assert post(app).text == "ok"
    signed(finished)


def test_raw_threads_that_carry_opentelemetrys_context_keep_the_byline(finished: Finished) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        read(environ)
        carried = otel_context.get_current()

        def work() -> None:
            otel_context.attach(carried)
            with tracer.start_as_current_span("step"):
                call_model()

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(10)
        start_response("200 OK", [])
        return []

    run_wsgi(AttributionMiddleware(app), SENT)
    signed(finished)


def test_a_body_in_a_context_that_has_been_left(finished: Finished) -> None:
    """The server reads it in another thread than the app ran in."""
    body = Body(b"a", b"b")
    answer: Any = AttributionMiddleware(answers(body))(environ_of(SENT), lambda *_: None)
    seen: list[bytes] = []

    def rest() -> None:
        seen.extend(answer)
        answer.close()

    thread = threading.Thread(target=rest)
    thread.start()
    thread.join(10)
    assert (seen, body.closed) == ([b"a", b"b"], 1)
    signed(finished, 2)


def test_the_environ_without_an_input() -> None:
    """Some test clients leave it out."""
    environ = environ_of(SENT)
    del environ["wsgi.input"]

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(byline.current().session_id).encode()]

    run = run_wsgi(AttributionMiddleware(app), SENT, environ)
    assert (run.body, run.error) == (b"s", None)
