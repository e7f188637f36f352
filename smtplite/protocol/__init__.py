r"""The sans-IO core of smtplite: SMTP and LMTP as a client speaks them, without I/O and without time.

::

    connection = Connection()
    connection.receive_data(b"220 mx.example ESMTP\r\n")
    connection.next_event()                                    # Replied(Greeting(), 220 ...)
    connection.send(Ehlo("client.example"))                    # b"EHLO client.example\r\n"

Commands go in and bytes come out; bytes go in and events come out. It imports neither anyio nor asyncio, ssl or socket.

The classes above `Connection` are provisional until 1.0: `Transaction`, `Stage`, `Transfer`, `Outcome`,
`RecipientOutcome`, `Submission`, `Window`, `ServerTraits`. Their names, their arguments and how they are driven may
change in any release before that.
"""

from smtplite.protocol.codes import REPLY_CODES
from smtplite.protocol.commands import (
    Auth,
    AuthCancel,
    AuthResponse,
    Bdat,
    BdatLast,
    BdatProbe,
    Command,
    Custom,
    Data,
    Ehlo,
    EndOfData,
    Expn,
    Greeting,
    Helo,
    Help,
    Lhlo,
    Mail,
    Noop,
    Quit,
    Rcpt,
    Rset,
    StartTls,
    Vrfy,
)
from smtplite.protocol.connection import MAX_CHALLENGES, Connection
from smtplite.protocol.events import (
    ChallengeReceived,
    ContentRefused,
    Disconnected,
    Event,
    Replied,
    ServiceClosing,
    TlsReady,
)
from smtplite.protocol.extensions import Extensions, Limits
from smtplite.protocol.outcomes import Outcome, RecipientOutcome
from smtplite.protocol.parameters import NO_PARAMETERS, Parameters
from smtplite.protocol.paths import Domain, ForwardPath, ReversePath
from smtplite.protocol.reply import EnhancedStatusCode, Reply, ReplyParser
from smtplite.protocol.state import RULES, Rule, State
from smtplite.protocol.submission import Submission
from smtplite.protocol.transaction import MAX_CHUNK_BYTES, Stage, Transaction, Transfer
from smtplite.protocol.transparency import ContentEncoder, normalize
from smtplite.protocol.window import (
    MAX_ONE_CHUNK_BYTES,
    MAX_UNACKNOWLEDGED_BYTES,
    ServerTraits,
    Window,
)

__all__ = [
    "MAX_CHALLENGES",
    "MAX_CHUNK_BYTES",
    "MAX_ONE_CHUNK_BYTES",
    "MAX_UNACKNOWLEDGED_BYTES",
    "NO_PARAMETERS",
    "REPLY_CODES",
    "RULES",
    "Auth",
    "AuthCancel",
    "AuthResponse",
    "Bdat",
    "BdatLast",
    "BdatProbe",
    "ChallengeReceived",
    "Command",
    "Connection",
    "ContentEncoder",
    "ContentRefused",
    "Custom",
    "Data",
    "Disconnected",
    "Domain",
    "Ehlo",
    "EndOfData",
    "EnhancedStatusCode",
    "Event",
    "Expn",
    "Extensions",
    "ForwardPath",
    "Greeting",
    "Helo",
    "Help",
    "Lhlo",
    "Limits",
    "Mail",
    "Noop",
    "Outcome",
    "Parameters",
    "Quit",
    "Rcpt",
    "RecipientOutcome",
    "Replied",
    "Reply",
    "ReplyParser",
    "ReversePath",
    "Rset",
    "Rule",
    "ServerTraits",
    "ServiceClosing",
    "Stage",
    "StartTls",
    "State",
    "Submission",
    "TlsReady",
    "Transaction",
    "Transfer",
    "Vrfy",
    "Window",
    "normalize",
]
