"""AWS Lambda behind an HTTP server: ``python -m tests.frameworks.lambda_server PORT 1.0`` or ``2.0``.

Each request becomes an event of API Gateway in that version of the payload format, and Mangum's handler answers one
event at a time, as Lambda does in a process.
"""

from __future__ import annotations

import base64
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from mangum import Mangum

import byline
from tests.frameworks.apps import app


def event_1(method: str, path: str, headers: dict[str, str], body: str) -> dict[str, Any]:
    return {
        "version": "1.0",
        "resource": "/{proxy+}",
        "path": path,
        "httpMethod": method,
        "headers": headers,
        "multiValueHeaders": {name: [value] for name, value in headers.items()},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {"identity": {"sourceIp": "127.0.0.1"}, "stage": "$default", "resourcePath": "/{proxy+}"},
        "body": body,
        "isBase64Encoded": False,
    }


def event_2(method: str, path: str, headers: dict[str, str], body: str) -> dict[str, Any]:
    http = {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1"}
    return {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": headers,
        "requestContext": {"http": http, "stage": "$default"},
        "body": body,
        "isBase64Encoded": False,
    }


def handle(event: dict[str, Any]) -> dict[str, Any]:
    """The function that Lambda calls. Afterwards Lambda freezes the process."""
    try:
        return Mangum(app, lifespan="off")(event, object())  # type: ignore[no-any-return]
    finally:
        byline.flush()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        sent = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        make_event = event_1 if sys.argv[2] == "1.0" else event_2
        try:
            answer = handle(make_event(self.command, self.path, dict(self.headers), sent))
        except Exception:
            # API Gateway's answer to a function that fails.
            answer = {"statusCode": 502, "body": "{}"}
        body = answer["body"]
        data = base64.b64decode(body) if answer.get("isBase64Encoded") else body.encode()
        self.send_response(answer["statusCode"])
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Server(HTTPServer):
    request_queue_size = 64


if __name__ == "__main__":
    Server(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
