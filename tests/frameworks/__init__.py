"""Web frameworks and servers, each in an environment of its own: ``pytest -m matrix tests/frameworks``."""
