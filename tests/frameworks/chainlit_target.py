"""The chat that `tests.frameworks.apps.chainlit` mounts: answers each message of a websocket."""

from __future__ import annotations

import chainlit

from tests.frameworks.apps import ask_async, steps_async


@chainlit.on_message
async def on_message(message: chainlit.Message) -> None:
    answer = chainlit.Message(content="")
    if message.content.endswith("streamed"):
        async for step in steps_async({"message": message.content}):
            await answer.stream_token(step.decode())
        await answer.send()
    else:
        answer.content = message.content + await ask_async()
        await answer.send()
