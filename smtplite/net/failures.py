"""Turn errors of the system, of TLS and of anyio into smtplite's own errors, which say what to do about them."""

from __future__ import annotations

import re
import ssl
from typing import Final, NoReturn, TypeGuard

import anyio

from smtplite.errors import ConnectError, ConnectionLost, TLSError
from smtplite.system import sockets

__all__ = ["SHOWN_BYTES", "fail", "failure_of", "handshake_failure", "is_of_tls", "reason_of", "refused", "tls_reason"]

#: How many bytes from the server an error shows.
SHOWN_BYTES: Final = 80


def fail(error: Exception) -> NoReturn:
    """Raise the error for the end of an established connection; see `failure_of`."""
    failure = failure_of(error)
    raise failure from failure.__cause__


def failure_of(error: BaseException) -> ConnectionLost | TLSError:
    """Return the error for the end of an established connection, with its cause (rule R30)."""
    if isinstance(error, (ConnectionLost, TLSError)):
        return error
    inner = error.__cause__ if isinstance(error, anyio.BrokenResourceError) and error.__cause__ else error
    if isinstance(inner, (ConnectionLost, TLSError)):
        return inner
    failure: ConnectionLost | TLSError
    if is_of_tls(inner):
        failure = TLSError(tls_reason(inner, "TLS failed"))
    else:
        failure = ConnectionLost(f"connection lost: {reason_of(inner)}")
    failure.__cause__ = error
    return failure


def reason_of(error: BaseException) -> str:
    """Return the text of an error.

    Its number does not help: the numbers of `ssl.SSLError` and `socket.gaierror` look like the system's, but are not.
    """
    text = sockets.reason_of(error) if isinstance(error, OSError) else None
    return text or str(error) or type(error).__name__


#: What TLS raises when the connection under it ended.
_ENDS_OF_TLS: Final = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)


def is_of_tls(error: BaseException) -> TypeGuard[ssl.SSLError]:
    """Return True if TLS failed, False if the connection under it ended."""
    return (
        isinstance(error, ssl.SSLError)
        and not isinstance(error, _ENDS_OF_TLS)
        and "UNEXPECTED_EOF" not in _ssl_reason(error)
    )


def _ssl_reason(error: ssl.SSLError) -> str:
    """Return OpenSSL's name for the error, such as WRONG_VERSION_NUMBER; an error made by hand has none."""
    return getattr(error, "reason", None) or ""


#: An alert (RFC 8446 6) as OpenSSL names it, such as TLSV13_ALERT_CERTIFICATE_REQUIRED or TLSV1_UNRECOGNIZED_NAME.
_ALERT: Final = re.compile(r"(?:SSLV3|TLSV1|TLSV13|SSL/TLS)_(?:ALERT_)?(\w+)")
_WANTS_A_CERTIFICATE: Final = "it requires a client certificate, pass tls_context= with one (load_cert_chain)"
_REFUSES_THE_CERTIFICATE: Final = "it does not accept our client certificate, check the one in tls_context="
#: What to do about an alert, by its name.
_REMEDIES: Final = {
    "certificate required": _WANTS_A_CERTIFICATE,
    "no certificate": _WANTS_A_CERTIFICATE,
    "unknown ca": _REFUSES_THE_CERTIFICATE,
    "bad certificate": _REFUSES_THE_CERTIFICATE,
    "unsupported certificate": _REFUSES_THE_CERTIFICATE,
    "certificate revoked": _REFUSES_THE_CERTIFICATE,
    "certificate expired": _REFUSES_THE_CERTIFICATE,
    "certificate unknown": _REFUSES_THE_CERTIFICATE,
    "access denied": _REFUSES_THE_CERTIFICATE,
    "handshake failure": "both sides have no cipher in common, or it requires a client certificate (tls_context=)",
    "protocol version": "both sides have no TLS version in common, see tls_context=",
    "unrecognized name": "it does not know that server name, see hostname and tls_hostname=",
}


def tls_reason(error: ssl.SSLError, what: str) -> str:
    """Describe what went wrong in TLS: the name of the server's alert, or else what OpenSSL says."""
    reason = _ssl_reason(error)
    alert = _ALERT.fullmatch(reason)
    if alert is None:
        return f"{what}: {reason.lower().replace('_', ' ') or reason_of(error)}"
    name = alert[1].lower().replace("_", " ")
    return f'{what}: server sent the alert "{name}"{": " if name in _REMEDIES else ""}{_REMEDIES.get(name, "")}'


# X509_V_ERR_... of OpenSSL's x509_vfy.h
_WRONG_NAME: Final = (62, 63, 64)
_EXPIRED: Final = 10
_NOT_YET_VALID: Final = 9
_UNKNOWN_ISSUER: Final = (2, 18, 19, 20, 21, 27)


def _certificate_reason(error: ssl.SSLCertVerificationError, hostname: str) -> str:
    """Describe what is wrong with the server's certificate, and what to do about it."""
    says = error.verify_message.removesuffix(".")
    if error.verify_code in _WRONG_NAME:
        return (
            f"server's certificate is not valid for {hostname}: {says}; connect to a name that it covers, "
            "or pass such a name as tls_hostname="
        )
    if error.verify_code in _UNKNOWN_ISSUER:
        return (
            f"server's certificate has an issuer that is not trusted: {says}; "
            "if it should be trusted, pass tls_context= that trusts its CA (on the command line: --ca)"
        )
    if error.verify_code == _EXPIRED:
        return f"server's certificate, or one in its chain, has expired: {says}; its operator must renew it"
    if error.verify_code == _NOT_YET_VALID:
        return f"server's certificate is not yet valid: {says}; check the clock of this machine"
    return f"server's certificate was not accepted: {says}"


#: The first byte of a TLS record: an alert, or a handshake (RFC 8446 5.1).
_RECORDS_AT_FIRST: Final = (0x15, 0x16)
_CLEAR_GREETING: Final = re.compile(rb"[2-5][0-9][0-9](?:[- ]|$)")


def handshake_failure(
    error: Exception, first: bytes, write_error: ConnectionLost | None, hostname: str, *, is_first: bool
) -> ConnectionLost | TLSError:
    """Return the error for a failed TLS handshake, with its cause.

    Args:
        error: what the handshake raised.
        first: the first bytes that the server sent in the handshake.
        write_error: why a write failed, if one did.
        hostname: the name that the certificate must cover.
        is_first: whether the handshake came first: nothing was sent unencrypted before it.
    """
    first = first[:SHOWN_BYTES]
    failure: ConnectionLost | TLSError
    if first and first[0] not in _RECORDS_AT_FIRST:
        said = first.partition(b"\n")[0].rstrip(b"\r")
        if not is_first:
            why = f"server answered {said!r} unencrypted after its 220 to STARTTLS"
        elif _CLEAR_GREETING.match(said):
            why = f'server speaks SMTP without TLS here, it said {said!r}: pass tls="starttls", or another port'
        else:
            why = f"server does not speak TLS here, it said {said!r}: check the port"
        failure = TLSError(f"TLS handshake failed: {why}")
    elif isinstance(error, ssl.SSLCertVerificationError):
        failure = TLSError(_certificate_reason(error, hostname))
    elif is_of_tls(error):
        failure = TLSError(tls_reason(error, "TLS handshake failed"))
    else:
        cause: BaseException = write_error or error.__cause__ or error
        ended = isinstance(cause, (anyio.EndOfStream, *_ENDS_OF_TLS))
        failure = ConnectionLost(
            "connection lost in the TLS handshake: "
            + ("server closed it" if ended else reason_of(cause).removeprefix("connection lost: "))
        )
        failure.__cause__ = cause
    failure.phase = "tls"
    failure.__cause__ = failure.__cause__ or error
    return failure


def refused(server: str, error: OSError) -> ConnectError:
    """Return the error that says that no connection could be opened, and why."""
    return ConnectError(f"cannot connect to {server}: {reason_of(error)}", phase="connect")
