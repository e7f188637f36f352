"""``python -m smtplite``: the same as the ``smtplite`` command."""

import sys

from smtplite.cli import main

if __name__ == "__main__":
    sys.exit(main())
