"""The lowest layer: streams of bytes to a server, the same on every event loop, and TLS over them.

Network libraries are called only here, and their errors are turned into smtplite's errors here.
"""

from __future__ import annotations

from smtplite.net.connecting import connect_tcp, connect_unix
from smtplite.net.foreign import ForeignStream, connect_foreign
from smtplite.net.sockets import SocketStream
from smtplite.net.stream import MAX_RECEIVE_BYTES, Meanwhile, Stream
from smtplite.net.tls import TLSStream

__all__ = [
    "MAX_RECEIVE_BYTES",
    "ForeignStream",
    "Meanwhile",
    "SocketStream",
    "Stream",
    "TLSStream",
    "connect_foreign",
    "connect_tcp",
    "connect_unix",
]
