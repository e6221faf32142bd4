"""``python -m byline.cli``: the same as ``byline``."""

import sys

from byline.cli import main

if __name__ == "__main__":
    sys.exit(main())
