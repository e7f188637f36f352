"""Usual: what nearly every message is, written and read at once; each decision stays where it is.

Nearly every message is the same: RSET, MAIL, its RCPTs and BDAT LAST with the content in one write, to which the server
says 250, 250, 250 and 250; or MAIL, RCPTs and DATA, to which it says 354 at last, and then the content. To look at each
of these commands and replies by itself costs most of the time that a message takes, and tells nothing. So there are
three shortcuts, and here stands what "usual" means for them.

*Writing a group.* A group (RFC 2920 3.1) of these commands is legal inside itself wherever its first command is legal:
that is read from RULES once for each kind of group, by `group_of`. `Connection.send_group` then asks the connection
only about the group's place: whether its first command may stand behind what is owed. `Connection.send_whole` does the
same for a group that ends in BDAT LAST, and adds the chunk.

*Reading.* `Transaction.receive_usual` takes all the replies that a transaction is owed, if all of them are at hand and
each is the usual one: 250, or 354 to DATA, on one line. It is all or nothing. Another code, a reply of several lines, a
line that is no reply, a group of which a part is still missing: then not one octet has been taken, and
`Connection.next_event` and `Transaction.receive` go through all of it from the first reply on. Whatever is unusual is
seen by them alone.

*A whole message.* Where messages follow each other at full speed, `Window.begin_whole` does not even make the
commands, nor a `Transaction`: it has the octets of all of them, and how many replies they are owed, in a `whole.Whole`.
In one chunk, the content is among these octets. With DATA it goes behind the 354, by `Submission.send_content`; the end
of data is a single command.

*When.* Any transaction may take the first two. Not in LMTP, where the number of replies depends on the replies; not
while a chunk is being written, behind a 421 or a breach of the protocol, nor where content is owed acknowledgements, a
proof of chunking is under way, or anything was refused. A session takes the events one by one, too, where octets of the
last write have not left: what a reply means may depend on that. A message goes whole in its first transaction, where
chunking is proved, or, with DATA, behind an end of data at a server that has shown that it goes on there; no RCPT has
parameters, it need not be for all or nobody, the message before it did not fail, the connection did not rest for long,
and nobody traces what happens. Before it begins, a session has looked for octets that nobody asked for.

*What is held.* Of the first two, nothing. The FIFO of the connection has the same commands either way, and a
transaction has the same stage and replies; between two calls nobody can tell which way was taken. A `Whole` stands in
the FIFO behind all single commands, until the last of these replies is read. Whoever asks it for a command makes them,
the same for everyone who asks; whoever asks its `Submission` for the transaction makes that, as far as it has come. So
the general way finds what it looks for: at something unusual, the end of the connection, a timeout, a cancellation, a
write that waits. The oldest message alone becomes single commands before the first of its replies is read one by one;
those behind it stay whole. Deadlines are those of the oldest command that is owed its reply, either way.

*No rule twice.* Which group is legal follows from RULES, as does the state behind it; octets are those that commands
write; outcomes are decided by the same methods of `transaction` and `window`. Tests turn all of it off
(`Connection._at_once`) and compare octets, outcomes and states, reply by reply.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final

import attrs

from smtplite.protocol.commands import BdatLast, Command, Data, EndOfData, Mail, Rcpt, Rset
from smtplite.protocol.state import RULES, State

__all__ = ["MAX_GROUP_COMMANDS", "USUAL", "Group", "group_of", "group_of_kinds", "usual_codes"]

#: The commands of a mail transaction, and the code that each is usually answered with.
USUAL: Final[dict[type[Command], int]] = {Rset: 250, Mail: 250, Rcpt: 250, Data: 354, EndOfData: 250, BdatLast: 250}
#: Those that have a place in a group, and what they need beside it is known.
_GROUPED: Final = frozenset({Rset, Mail, Rcpt, Data, BdatLast})
#: Larger groups are worth a look at each command, and the kinds of them too many to be remembered.
MAX_GROUP_COMMANDS: Final = 16


@attrs.frozen(eq=False)
class Group:
    """What holds for a group of commands, by their kinds.

    Attributes:
        legal_in: where the first of them may be sent; each other one may then follow the one before.
        has_chunk: whether it ends in BDAT LAST, behind which there is the chunk.
    """

    legal_in: frozenset[State]
    has_chunk: bool


@lru_cache(maxsize=64)
def group_of_kinds(kinds: tuple[type[Command], ...]) -> Group | None:
    """Return what holds for a group of commands of these kinds; None: each of its commands must be looked at."""
    if not _GROUPED.issuperset(kinds) or BdatLast in kinds[:-1]:
        return None
    rules = [RULES[kind] for kind in kinds]
    for before, rule in pairwise(rules):
        if before.ends_group or before.while_owed not in rule.legal_in:
            return None
    return Group(rules[0].legal_in, kinds[-1] is BdatLast)


def group_of(commands: Sequence[Command]) -> Group | None:
    """Return what holds for this group; None: each of its commands must be looked at."""
    if not 0 < len(commands) <= MAX_GROUP_COMMANDS:
        return None
    return group_of_kinds(tuple(map(type, commands)))


@lru_cache(maxsize=64)
def usual_codes(kinds: tuple[type[Command], ...]) -> tuple[int, ...] | None:
    """Return the codes of the usual replies to commands of these kinds; None: some have no usual one."""
    try:
        return tuple([USUAL[kind] for kind in kinds])
    except KeyError:
        return None
