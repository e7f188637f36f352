"""TLS of the testing server: its part of the dialogue without I/O, and certificates that are made automatically.

The certificates are made by trustme, which comes with the extra ``testing``; it is imported when it is needed.
"""

from __future__ import annotations

import datetime
import functools
import ssl
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import trustme

__all__ = ["TlsServerSide", "authority", "client_context", "require_trustme", "server_context"]

#: The most that is read from the decryption at once.
MAX_READ_BYTES = 65_536

#: Looks like a record, also as the rest of one; nobody can decrypt it.
_NO_RECORD = b"\x17\x03\x03\x40\x00" + bytes(16_384)


class TlsServerSide:
    """The server's side of one TLS connection: bytes of the wire in, bytes of the dialogue out, and back."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        #: Whether anything came.
        self.has_begun = False
        #: Whether the handshake is complete.
        self.is_established = False
        #: Whether the client said that it sends no more.
        self.is_ended = False
        #: Why TLS failed; nothing can be received or sent any more.
        self.error: ssl.SSLError | None = None

    @property
    def version(self) -> str:
        """Of TLS, such as ``TLSv1.3``."""
        return self._object.version() or "TLS"

    @property
    def peer(self) -> str | None:
        """The name in the client's certificate: its first subjectAltName, else its common name."""
        certificate: dict[str, Any] = dict(self._object.getpeercert() or {})
        names = [name for _, name in certificate.get("subjectAltName", ())]
        names += [name for part in certificate.get("subject", ()) for kind, name in part if kind == "commonName"]
        return names[0] if names else None

    def receive(self, data: bytes) -> bytes:
        """Take `data` from the wire and return what it holds, once the handshake is complete.

        Afterwards send what `outgoing` returns, even if TLS failed: the alert is there.
        """
        if self.error is not None:
            return b""
        self.has_begun = True
        self._incoming.write(data)
        pieces: list[bytes] = []
        try:
            if not self.is_established:
                self._object.do_handshake()
                self.is_established = True
            while piece := self._object.read(MAX_READ_BYTES):
                pieces.append(piece)
            self.is_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.is_ended = True
        except ssl.SSLError as error:
            self.error = error
        return b"".join(pieces)

    def send(self, data: bytes) -> bytes:
        """Return what to send for `data`."""
        view = memoryview(data)
        try:
            while view and self.error is None:
                view = view[self._object.write(view) :]
        except ssl.SSLError as error:
            self.error = error
        return self.outgoing()

    def alert(self) -> bytes:
        """Return a fatal alert (``bad_record_mac``); TLS is over.

        No interface makes one: it is OpenSSL's answer to bytes that nobody encrypted.
        """
        self._incoming.write(_NO_RECORD)
        try:
            while self.error is None and self._object.read(MAX_READ_BYTES):
                pass  # what the client said before
        except ssl.SSLError as error:
            self.error = error
        return self.outgoing()

    def close(self) -> bytes:
        """Return what to send last: the notice that nothing follows (close_notify)."""
        if self.is_established and self.error is None:
            try:
                self._object.unwrap()
            except ssl.SSLError:
                pass  # the client did not say the same yet: SSLWantReadError
        return self.outgoing()

    def outgoing(self) -> bytes:
        """Return what TLS itself has to send."""
        return self._outgoing.read()


def require_trustme() -> None:
    """Make sure that certificates can be made.

    Raises:
        ImportError: trustme is not installed.
    """
    try:
        import trustme
    except ImportError as error:
        raise ImportError(
            "the testing server makes its certificate with trustme, which is not installed:"
            " install smtplite[testing], or pass ssl_context"
        ) from error
    del trustme


@functools.cache
def authority() -> trustme.CA:
    """Return the certificate authority of this process, made when it is first asked for.

    Raises:
        ImportError: trustme is not installed.
    """
    require_trustme()
    import trustme

    return trustme.CA()


def server_context(
    *names: str,
    ca: trustme.CA | None = None,
    common_name: str | None = None,
    not_before: datetime.datetime | None = None,
    not_after: datetime.datetime | None = None,
    is_self_signed: bool = False,
    only_version: ssl.TLSVersion | None = None,
    requires_client_certificate: bool = False,
) -> ssl.SSLContext:
    """Return a new context for a server.

    Args:
        names: host names and IP addresses that its certificate is valid for; none and no `common_name`: localhost.
        ca: who signs it; None: `authority()`.
        common_name: put into the subject.
        not_before: the certificate is not valid yet before this.
        not_after: the certificate has expired after this.
        is_self_signed: show a certificate that is signed only by itself, whatever else is asked for.
        only_version: speak this version of TLS and no other, even one that is no longer safe.
        requires_client_certificate: accept only clients with a certificate that `ca` signed, such as those of
            ``client_context(certificate=...)``. In TLS 1.3 the others see their handshake succeed, and an alert after
            it.

    Raises:
        ImportError: trustme is not installed.
    """
    if not names and common_name is None:
        names = ("localhost", "127.0.0.1", "::1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if ca is None:
        ca = authority()
    if is_self_signed:
        import trustme

        itself = trustme.CA()
        with itself.private_key_pem.tempfile() as key, itself.cert_pem.tempfile() as certificate:
            context.load_cert_chain(certificate, key)
    else:
        ca.issue_cert(
            *dict.fromkeys(names), common_name=common_name, not_before=not_before, not_after=not_after
        ).configure_cert(context)
    if requires_client_certificate:
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    if only_version is not None:
        with warnings.catch_warnings():
            # Python deprecates to ask for TLS below 1.2, and OpenSSL to speak it: here that is the point
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
            context.maximum_version = only_version
            context.minimum_version = only_version
        if only_version < ssl.TLSVersion.TLSv1_2:
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
    return context


def client_context(*, certificate: str | None = None) -> ssl.SSLContext:
    """Return a new context for a client, which trusts `authority()` and no other.

    Host names are checked, and only against subjectAltName: by default, Python falls back to the common name.

    Args:
        certificate: whom the client's own certificate names, such as ``"ada@example.org"``; `authority()` signs it.
            None: it has none.

    Raises:
        ImportError: trustme is not installed.

    RFC 9525 section 2.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.hostname_checks_common_name = False
    authority().configure_trust(context)
    if certificate is not None:
        authority().issue_cert(certificate).configure_cert(context)
    return context
