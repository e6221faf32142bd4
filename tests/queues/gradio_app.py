"""A Gradio app within FastAPI, behind byline's middleware; prints whose each event was, as JSON."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import byline

byline.instrument(destinations=[])

import gradio  # noqa: E402
import httpx  # noqa: E402
import uvicorn  # noqa: E402
from fastapi import FastAPI  # noqa: E402

from byline.asgi import AttributionMiddleware  # noqa: E402


def who(expected: str) -> str:
    return json.dumps([expected, byline.current().user_id])


async def async_who(expected: str) -> str:
    return who(expected)


def stream(expected: str) -> Iterator[str]:
    for _ in range(3):
        yield who(expected)


def batch(expected: list[str]) -> list[list[str]]:
    time.sleep(0.05)
    return [[who(each) for each in expected]]


def make_app() -> Any:
    with gradio.Blocks() as blocks:
        text, output = gradio.Textbox(), gradio.Textbox()
        for function in (who, async_who, stream):
            gradio.Button().click(function, text, output, api_name=function.__name__)
        gradio.Button().click(batch, text, output, api_name="batch", batch=True, max_batch_size=8)
    app = gradio.mount_gradio_app(FastAPI(), blocks, path="/ui")
    app.add_middleware(AttributionMiddleware)
    return app


def call(client: httpx.Client, function: str, user: str) -> list[str]:
    headers = {"x-openwebui-user-id": user}
    event = client.post(f"/call/{function}", json={"data": [user]}, headers=headers).json()["event_id"]
    lines = client.get(f"/call/{function}/{event}", headers=headers).text.splitlines()
    data = json.loads([line for line in lines if line.startswith("data:")][-1].removeprefix("data:"))
    return [function, *json.loads(data[0])]


def main(count: int) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    running = uvicorn.Server(uvicorn.Config(make_app(), log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not running.started:
        time.sleep(0.01)
    base = f"http://127.0.0.1:{listening.getsockname()[1]}/ui/gradio_api"
    functions = ("who", "async_who", "stream", "batch")
    with httpx.Client(base_url=base, trust_env=False, timeout=120) as client, ThreadPoolExecutor(8) as pool:
        calls = [(functions[number % 4], f"user-{number % 7}") for number in range(count)]
        results = list(pool.map(lambda each: call(client, *each), calls))
    running.should_exit = True
    thread.join(30)
    print(json.dumps({"results": results, "stats": byline.stats()}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
