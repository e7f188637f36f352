"""Run the simulation without pytest: ``python -m tests.simulation`` as the tests do, ``--exhaustive`` for all of it.

``--digest`` does not judge: it prints a digest of octets and outcomes, to be compared with that of another commit, or
with that of ``--one-by-one``, for which no client takes replies at once (see `smtplite.protocol.usual`).
"""

from __future__ import annotations

import argparse
import sys
import time

from smtplite.protocol import Connection

from . import judge
from .conversations import CONVERSATIONS
from .digest import Digest
from .suite import EXHAUSTIVE_KINDS, KINDS, cases
from .user_agent import simulating

_SHOWN = 3


def main() -> int:
    """Run, print what failed, and how many runs there were; return 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--exhaustive", action="store_true", help="every case of every conversation, and more kinds")
    parser.add_argument("--conversation", default="", help="only those whose name contains this")
    parser.add_argument("--kind", default="", help="only the faults whose name contains this")
    parser.add_argument("--digest", action="store_true", help="print what they did, as a digest for each kind")
    parser.add_argument("--one-by-one", action="store_true", help="let clients take each reply by itself")
    arguments = parser.parse_args()
    if arguments.one_by_one:
        Connection._at_once = False
    kinds = [kind for kind in (EXHAUSTIVE_KINDS if arguments.exhaustive else KINDS) if arguments.kind in kind]
    if arguments.digest:
        print_digests(kinds, arguments.conversation, is_whole=arguments.exhaustive)
        return 0
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
    print(judge.taken)
    return bool(failed)


def print_digests(kinds: list[str], conversation: str, *, is_whole: bool) -> None:
    """Print what the runs of each kind did, and all of them together."""
    in_all = Digest()
    with simulating():
        for kind in kinds:
            of_kind = Digest()
            for each in CONVERSATIONS:
                if conversation in each.name:
                    for case in cases(kind, each, is_whole=is_whole):
                        of_kind.add(each, case)
            print(f"{of_kind}  {of_kind.runs:8,} runs  {kind}")
            in_all.include(of_kind)
    print(f"{in_all}  {in_all.runs:8,} runs, {in_all.octets:,} octets, {in_all.outcomes:,} outcomes")
    print(in_all.taken)


if __name__ == "__main__":
    sys.exit(main())
