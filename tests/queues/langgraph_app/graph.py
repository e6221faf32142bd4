"""A graph of one node, which returns whose run it is."""

from __future__ import annotations

import json
from typing import Any, TypedDict

from langgraph.graph import StateGraph

import byline


class State(TypedDict):
    got: str


async def node(state: State) -> dict[str, Any]:
    got = byline.current()
    return {"got": json.dumps([got.user_id, got.session_id])}


builder = StateGraph(State)
builder.add_node("node", node)
builder.set_entry_point("node")
builder.set_finish_point("node")
graph = builder.compile()
