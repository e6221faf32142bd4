"""uWSGI with the options of its command: ``python -m tests.frameworks.uwsgi_server PORT``."""

from __future__ import annotations

import sys

import pyuwsgi

if __name__ == "__main__":
    # Without --lazy-apps, so that byline.instrument() is called before uWSGI forks its workers.
    address = f"--http-socket=127.0.0.1:{sys.argv[1]}"
    pyuwsgi.run([address, "--module=tests.frameworks.apps:app", "--master", "--die-on-term", "--threads=16"])
