"""The command line: ``byline demo``, ``byline check`` and ``byline gateway``."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from importlib import metadata
from importlib.util import find_spec
from typing import Final

from byline.settings import SettingError, install_command

#: Modules that the demo imports beyond the core's dependencies.
_DEMO_MODULES: Final = (
    "fastapi",
    "flask",
    "openai",
    "opentelemetry.instrumentation.genai.openai",
    "opentelemetry.instrumentation.wsgi",
    "rich",
    "uvicorn",
)


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Wraps descriptions, and leaves the lines of examples as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return textwrap.fill(text, width, initial_indent=indent, subsequent_indent=indent)


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser of the ``byline`` command."""
    parser = argparse.ArgumentParser(
        prog="byline",
        description="Attribution for every LLM span of a Python web app.",
        epilog="examples:\n  byline demo                         see it work, without account or network\n"
        "  byline gateway uvicorn main:app     run an app and see each LLM call, without a key\n"
        "  byline check main:app --path /chat  find out where session, user or cost is lost\n"
        "  byline run -- uvicorn main:app      run an app with byline, without a line of code\n\n"
        "byline COMMAND --help has the options of a command",
        formatter_class=_HelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"byline {metadata.version('byline')}")
    commands = parser.add_subparsers(dest="command", metavar="command")

    demo = commands.add_parser(
        "demo",
        help="run a conversation on this machine and print its traces",
        description="Runs a chat app with byline, a gateway in place of a provider and a client, all on this machine, "
        "and prints the traces that arrive at the backend.",
        epilog="examples:\n  byline demo\n  byline demo --open\n  byline demo --wsgi --otlp http://127.0.0.1:6006",
        formatter_class=_HelpFormatter,
    )
    demo.add_argument("--wsgi", action="store_true", help="run the app with Flask instead of FastAPI")
    demo.add_argument("--json", action="store_true", help="print all spans as one JSON object and nothing else")
    demo.add_argument("--langfuse", action="store_true", help="also send to the Langfuse that the environment names")
    demo.add_argument("--otlp", metavar="URL", help="also send to this OTLP/HTTP endpoint")
    demo.add_argument("--svg", metavar="FILE", help="also write the traces as a picture")
    demo.add_argument("--open", action="store_true", help="show the traces in Phoenix, if that is installed")

    check = commands.add_parser(
        "check",
        help="say whether spans arrive, for the settings of the environment or for an app",
        description="Sends a test trace to each destination. With an app, also sends one request through it, with a "
        "local gateway instead of the provider, and says where session, user or cost is lost.",
        epilog="examples:\n  byline check\n  byline check main:app --path /chat\n"
        '  byline check main:create_app --factory --path /chat --data \'{"question": "Hello"}\'\n\n'
        "exit codes: 0 all arrives, 1 something is lost, 2 the app cannot be checked",
        formatter_class=_HelpFormatter,
    )
    check.add_argument("app", nargs="?", help="the app as servers take it, module:attribute; ASGI or WSGI")
    check.add_argument("--factory", action="store_true", help="the attribute is a function that returns the app")
    check.add_argument("--path", help="the path that makes an LLM call (default: the only one that takes POST)")
    check.add_argument("--data", metavar="JSON", help="the body of the request (default: one that most chat APIs take)")
    check.add_argument(
        "--header", action="append", default=[], type=_header, metavar="NAME:VALUE", help="a header of the request"
    )
    check.add_argument("-v", "--verbose", action="store_true", help="also print the settings that have defaults")
    check.add_argument("--json", action="store_true", help="print one JSON object and nothing else")

    gateway = commands.add_parser(
        "gateway",
        help="serve the testing gateway, until Ctrl-C or while a command runs",
        description="Serves a gateway that answers like OpenRouter, OpenAI, Anthropic and Gemini, and prints each "
        "call: what the app sent, and the span that arrived. A command gets the address in OPENAI_BASE_URL.",
        epilog="examples:\n  byline gateway uvicorn main:app\n  byline gateway --port 4010",
        formatter_class=_HelpFormatter,
    )
    gateway.add_argument("--port", type=int, help="the port to serve on (default: a free one for a command, else 4010)")
    gateway.add_argument("run", nargs=argparse.REMAINDER, metavar="command", help="the command to run against it")

    run = commands.add_parser(
        "run",
        help="run a program with byline and its middleware, without a line of code",
        description="Runs a program. Its Python processes call byline.instrument(), and servers get the app with "
        "AttributionMiddleware around it. The settings come from the environment, byline.toml or pyproject.toml.",
        epilog="examples:\n  byline run -- uvicorn main:app\n  byline run -- gunicorn --workers 4 main:app\n"
        "  byline run -- flask --app main run",
        formatter_class=_HelpFormatter,
    )
    run.add_argument("run", nargs=argparse.REMAINDER, metavar="command", help="the program and its arguments")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments after the program's name; by default those of the process.

    Returns:
        The exit code: 0 on success, 1 on failure, 2 without a command or if an app cannot be checked, 130 after Ctrl-C.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        if options.command == "check":
            from byline.cli import check

            app = None
            if options.app is not None:
                body = None if options.data is None else options.data.encode()
                path = options.path and f"/{options.path.removeprefix('/')}"
                app = check.AppCheck(options.app, options.factory, path, dict(options.header), body)
            return check.run_check(as_json=options.json, verbose=options.verbose, app=app)
        if options.command == "gateway":
            from byline.cli import gateway

            return gateway.run_gateway(options.port, options.run)
        if options.command == "run":
            from byline.cli import run

            return run.run_program(options.run)
        _require_extra("demo", _DEMO_MODULES)
        from byline.cli import demo

        return demo.run_demo(
            wsgi=options.wsgi,
            as_json=options.json,
            langfuse=options.langfuse,
            otlp=options.otlp,
            opens=options.open,
            svg=options.svg,
        )
    except SettingError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"{text.strip()!r} has no colon: write 'Name: value'")
    return name.strip(), value.strip()


def _require_extra(extra: str, modules: Sequence[str]) -> None:
    """Raise ``byline.E051`` with the pip command if a module of an extra is not installed."""
    missing = [module for module in modules if not _is_installed(module)]
    if missing:
        raise SettingError(
            "byline.E051",
            f"this needs {', '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            f"run: {install_command(extra)}",
        )


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ImportError:
        # find_spec raises if a parent package is missing.
        return False
