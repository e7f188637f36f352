"""Run the simulation without pytest: ``python -m tests.simulation`` as the tests do, ``--exhaustive`` for all of it."""

from __future__ import annotations

import argparse
import sys
import time

from . import judge
from .conversations import CONVERSATIONS
from .suite import EXHAUSTIVE_KINDS, KINDS, cases
from .user_agent import simulating

_SHOWN = 3


def main() -> int:
    """Run, print what failed, and how many runs there were; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--exhaustive", action="store_true", help="every case of every conversation, and more kinds")
    parser.add_argument("--conversation", default="", help="only those whose name contains this")
    parser.add_argument("--kind", default="", help="only the faults whose name contains this")
    arguments = parser.parse_args()
    kinds = [kind for kind in (EXHAUSTIVE_KINDS if arguments.exhaustive else KINDS) if arguments.kind in kind]
    failed = 0
    begun = time.perf_counter()
    with simulating():
        for conversation in CONVERSATIONS:
            if arguments.conversation not in conversation.name:
                continue
            for kind in kinds:
                shown = 0
                for case in cases(kind, conversation, is_whole=arguments.exhaustive):
                    wrong = judge.verdict(conversation, case, kind)
                    failed += bool(wrong)
                    shown += bool(wrong)
                    if wrong and shown <= _SHOWN:
                        print(f"{conversation}, {kind}: {case.plan}: {'; '.join(wrong)}")
                if shown > _SHOWN:
                    print(f"{conversation}, {kind}: {shown - _SHOWN} more")
    print(f"{judge.tried.total():,} runs in {time.perf_counter() - begun:.0f} s, {failed:,} failed")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
