"""aiohttp: ``ClientSession._request``, below all of its verbs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from byline import guard
from byline.calls import call as calls
from byline.calls.call import Call
from byline.calls.clients import patches


def patch(module: Any) -> None:
    """Hook the session of aiohttp."""
    patches.replace(module.ClientSession, "_request", _request)


def _request(original: Callable[..., Any]) -> Callable[..., Any]:
    async def request(self: Any, method: str, url: Any, **options: Any) -> Any:
        call = _begin(self, method, url, options) if calls.rules is not None and method == "POST" else None
        if call is None:
            return await original(self, method, url, **options)
        try:
            with call.current():
                response = await original(self, method, url, **options)
        except BaseException as error:
            call.fail(error)
            raise
        _answered(call, response)
        return response

    return request


def _begin(session: Any, method: str, url: Any, options: dict[str, Any]) -> Call | None:
    try:
        from yarl import URL

        target = URL(url) if isinstance(url, str) else url
        if not target.absolute and session._base_url is not None:
            target = session._base_url.join(target)
        call = calls.begin(
            target.host or "",
            target.port,
            target.raw_path,
            lambda: _headers(session, options),
            lambda: _body(session, options),
        )
    except Exception:
        guard.report("aiohttp")
        return None
    if call is not None and call.headers and not options.get("allow_redirects", True):
        # aiohttp hands headers on to whatever host a redirect names, so ids are written only where
        # it follows none.
        options["headers"] = {**(options.get("headers") or {}), **call.headers}
    return call


def _headers(session: Any, options: dict[str, Any]) -> dict[str, str]:
    given = [*session.headers.items(), *dict(options.get("headers") or {}).items()]
    return {str(name).lower(): str(value) for name, value in given}


def _body(session: Any, options: dict[str, Any]) -> bytes | None:
    data = options.get("data")
    if isinstance(data, bytes | str):
        return data.encode() if isinstance(data, str) else data
    if options.get("json") is not None:
        try:
            return json.dumps(options["json"]).encode()
        except (TypeError, ValueError):
            return None
    return None


def _answered(call: Call, response: Any) -> None:
    try:
        call.answered(response.status, {name.lower(): value for name, value in response.headers.items()})
        call.is_decoded()
        _tee(response, call)
    except Exception:
        guard.report("aiohttp")


def _tee(response: Any, call: Call) -> None:
    """See the bytes where they come out of the connection's reader, whichever way the app reads."""
    content = response.content
    for name in ("read", "readany", "readline", "readchunk", "readexactly", "readuntil"):
        reader = getattr(content, name, None)
        if reader is not None:
            setattr(content, name, _see(reader, content, call))
    content.on_eof(call.end)
    close, release = response.close, response.release

    def closing() -> Any:
        call.end()
        return close()

    def releasing() -> Any:
        call.end()
        return release()

    response.close, response.release = closing, releasing


def _see(reader: Callable[..., Any], content: Any, call: Call) -> Callable[..., Any]:
    async def read(*arguments: Any, **options: Any) -> Any:
        try:
            data = await reader(*arguments, **options)
        except BaseException as error:
            call.fail(error)
            raise
        call.see(data[0] if isinstance(data, tuple) else data)
        if content.at_eof():
            call.end()
        return data

    return read
