"""The command line: ``byline demo``, ``byline check`` and ``byline gateway``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import metadata

from byline.settings import SettingError


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="byline", description="Signs every LLM span of a Python web app.")
    top.add_argument("--version", action="version", version=f"byline {metadata.version('byline')}")
    commands = top.add_subparsers(dest="command", required=True, metavar="command")

    demo = commands.add_parser("demo", help="hold a conversation on this machine and show its traces")
    demo.add_argument("--wsgi", action="store_true", help="run the app with Flask instead of FastAPI")
    demo.add_argument("--json", action="store_true", help="print the spans as one JSON object and nothing else")
    demo.add_argument("--langfuse", action="store_true", help="also send to the Langfuse that the environment names")
    demo.add_argument("--otlp", metavar="URL", help="also send to this OTLP/HTTP endpoint")

    check = commands.add_parser("check", help="show the settings in force and test each destination for real")
    check.add_argument("--json", action="store_true", help="print one JSON object and nothing else")

    gateway = commands.add_parser(
        "gateway",
        help="serve the testing gateway, until Ctrl-C or around a command",
        description="Serves a gateway that answers like OpenRouter, OpenAI, Anthropic and Gemini. A command finds it "
        "in OPENAI_BASE_URL and OPENAI_API_KEY: byline gateway python app.py",
    )
    gateway.add_argument("--port", type=int, help="the port to serve on (default: a free one for a command, else 4010)")
    gateway.add_argument("run", nargs=argparse.REMAINDER, metavar="command", help="what to run against it")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Those after the program's name; by default the process's own.

    Returns:
        The exit code: 0 where all went well, 1 where something failed, 130 after Ctrl-C.
    """
    given = parser().parse_args(arguments)
    try:
        if given.command == "check":
            from byline.cli import check

            return check.run_check(as_json=given.json)
        if given.command == "gateway":
            from byline.cli import gateway

            return gateway.run_gateway(given.port, given.run)
        from byline.cli import extras

        extras.require_packages("demo", *extras.DEMO)
        from byline.cli import demo

        return demo.run_demo(wsgi=given.wsgi, as_json=given.json, langfuse=given.langfuse, otlp=given.otlp)
    except SettingError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
