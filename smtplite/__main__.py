"""``python -m smtplite``: the same as the ``smtplite`` command."""

from smtplite.cli import program

if __name__ == "__main__":
    program()
