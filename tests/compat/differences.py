"""Where smtplite.compat.aiosmtplib and aiosmtplib differ on purpose. The page "Programs for aiosmtplib" is made of it.

`test_programs.py` holds the first table: a program that meets a difference has its key, and both sides are looked at.
`test_names.py` holds the second: it has every name, and no other.
"""

from __future__ import annotations

#: Key: what a program meets, what happens with aiosmtplib, what happens here, and what to do.
DIFFERENCES: dict[str, tuple[str, str, str, str]] = {
    "no-password-in-clear": (
        "a password, and no TLS",
        "sent unencrypted",
        "`SMTPException`; nothing is sent",
        "`start_tls=True` or `use_tls=True`; where nobody can listen, `SMTP.ALLOW_INSECURE_AUTH = True`",
    ),
    "unknown": (
        "no final reply after the message was handed over",
        "`SMTPServerDisconnected`, or `SMTPReadTimeoutError`",
        "the same, and also `smtplite.DeliveryUnknown`",
        "[do not retry it blindly](#before-you-retry)",
    ),
    "tls-errors": (
        "the certificate is wrong after STARTTLS",
        "`ssl.SSLCertVerificationError`",
        "the same, and also `SMTPConnectError`",
        "nothing: both are caught",
    ),
    "one-password-one-try": (
        "a refused password, several methods offered",
        "tried with each method in turn: CRAM-MD5, PLAIN, LOGIN",
        "tried once, with the best one; SCRAM is supported too",
        "nothing: fewer failures count against the account",
    ),
    "cancelled": (
        "a command after one that was cancelled, for instance by `asyncio.wait_for`",
        "it gets the reply to the cancelled command",
        "`SMTPServerDisconnected`: cancelling a command closes the connection",
        "connect again",
    ),
    "added-fields": (
        "a message object without Date or Message-ID",
        "sent without them",
        "what is missing is added to what is sent",
        "nothing: spam filters like it",
    ),
    "bcc": (
        "text or bytes with a Bcc field, to `sendmail`",
        "shown to every recipient",
        "the field is removed",
        "nothing",
    ),
    "no-header": (
        "text or bytes that do not begin with header fields",
        "sent as they are",
        "an empty line is put in front of the first line that is not a field",
        "nothing: readers see the same",
    ),
    "eight-bit": (
        "bytes that are not ASCII, and a server without 8BITMIME",
        "sent anyway",
        "`SMTPNotSupported`; nothing is sent",
        "pass a message object: it is encoded",
    ),
    "address": (
        "an address that contains a line end and more text",
        "cut down to what looks like an address, or `ValueError`",
        "`ValueError`; nothing is sent",
        "check what users type with `smtplite.protocol.ForwardPath.parse`",
    ),
    "encoded-addresses": (
        'an address inside `Header("Name <address>", "utf-8")`',
        "encoded together with the name: readers see a name and no address",
        "only the name is encoded",
        "nothing",
    ),
    "no-address": (
        "a From, To or Cc that is not ASCII and contains no address, such as a name alone",
        "sent, if `sender=` and `recipients=` are given",
        "`ValueError`; nothing is sent",
        "write `Name <address>`",
    ),
    "nul": (
        "a NUL in the message",
        "sent: the server may refuse the message, or cut it there",
        "`ValueError`; nothing is sent",
        "remove it",
    ),
    "options-not-offered": (
        "`mail_options` or `rcpt_options` that the server does not offer",
        "sent: the server refuses them",
        "`SMTPNotSupported`; nothing is sent",
        "ask `supports_extension` first",
    ),
    "out-of-order": (
        "a command out of order, such as RCPT before MAIL",
        "sent: the server answers 503",
        "not sent; an exception of the same class, with code 503 and smtplite's own text",
        "nothing",
    ),
    "more-than-a-line": (
        "DATA, BDAT or STARTTLS with `execute_command`",
        "sent",
        "`SMTPNotSupported`",
        "use `SMTP.data`, `SMTP.starttls`",
    ),
}

#: What no program of the comparison can show: what happens with aiosmtplib, what happens here.
FURTHER: list[tuple[str, str, str]] = [
    (
        "`start_tls=None` (the default), no password, and a server that offers no TLS",
        "sent unencrypted",
        "the same, and, once in each process, a `CompatWarning` that names `start_tls`",
    ),
    ("`validate_certs=False`", "accepted", "the same, and, once in each process, a `CompatWarning`"),
    (
        "`timeout=60` (the default)",
        "60 seconds for each step",
        "600 seconds for the final reply, because giving up on it early can deliver a message twice. Any other number "
        "holds for all steps",
    ),
    (
        "`local_hostname=None`",
        "`socket.getfqdn()`, which may ask the DNS",
        "this host's full name, or its address if it has none",
    ),
    ("`local_hostname=` with an underscore", "sent", "`ValueError`"),
    ("`source_address=` with a name", "looked up", "`ValueError`: give an address"),
    ("commands of one message", "one after another", "in one write, if the server offers PIPELINING"),
    (
        "some recipients accepted, and then the connection ends",
        "cannot happen: there is one transaction",
        "if there are too many recipients, they are split over several transactions; those not reached are in the "
        "returned dict, with code -1",
    ),
    ("the same recipient twice", "RCPT twice", "RCPT once"),
    ("`SMTP.transport`, `SMTP.protocol`, `SMTP.loop`", "asyncio's", "do not exist"),
    ("`get_transport_info(key)`", "what asyncio knows", '"sslcontext" and "cipher"; None for all other keys'),
]

#: Each name: what it does here, and how to write it with `Client`.
NAMES: dict[str, tuple[str, str]] = {
    "send": ("connects, sends one message, disconnects", "`await smtplite.send(message, hostname=...)`"),
    "SMTP": ("one connection", "`Client`: a pool for all tasks"),
    "SMTP.connect": ("opens the connection; returns the greeting", "nothing: a `Client` connects when it sends"),
    "SMTP.quit": ("sends QUIT, and closes", "`await client.aclose()`, or `async with`"),
    "SMTP.close": ("closes at once", "`await client.aclose()`"),
    "SMTP.starttls": ("starts TLS on this connection", "nothing: TLS is required by default"),
    "SMTP.login": ("authenticates with the best method that both sides know", "`Client(username=, password=)`"),
    "SMTP.auth_plain": ("authenticates with PLAIN", "`Client(auth=sasl.Plain(u, p))`"),
    "SMTP.auth_login": ("authenticates with LOGIN", "`Client(auth=sasl.Login(u, p))`"),
    "SMTP.auth_crammd5": ("authenticates with CRAM-MD5", "`Client(auth=sasl.CramMd5(u, p))`"),
    "SMTP.auth_xoauth2": ("authenticates with an access token", "`Client(auth=sasl.XOAuth2(u, token))`"),
    "SMTP.send_message": ("sends a message object", "`await client.send(message)`"),
    "SMTP.sendmail": ("sends text or bytes", "`await client.send(data, sender=f, recipients=[t])`, data as `bytes`"),
    "SMTP.send_message_sync": ("the same without an event loop", "`SyncClient.send`"),
    "SMTP.sendmail_sync": ("the same without an event loop", "`SyncClient.send`"),
    "SMTP.ehlo": ("EHLO", "nothing"),
    "SMTP.helo": ("HELO", "nothing"),
    "SMTP.noop": ("NOOP", "nothing: the pool checks whether a connection is alive"),
    "SMTP.rset": ("RSET", "nothing"),
    "SMTP.vrfy": ("VRFY", "`await session.command(Vrfy(a))`, in `client.session()`"),
    "SMTP.expn": ("EXPN", "`await session.command(Expn(a))`"),
    "SMTP.help": ("HELP", "`await session.command(Help())`"),
    "SMTP.mail": ("MAIL, by hand", "`await session.command(Mail(a))`"),
    "SMTP.rcpt": ("RCPT, by hand", "`await session.command(Rcpt(a))`"),
    "SMTP.data": ("DATA and the content, by hand", "`await session.data(content)`"),
    "SMTP.execute_command": ("sends one command line", "`await session.command(Custom(verb, rest))`"),
    "SMTP.is_connected": ("True while there is a connection", "nothing"),
    "SMTP.is_ehlo_or_helo_needed": ("True until the server was greeted", "nothing"),
    "SMTP.supports_extension": ("True if the server offers this keyword", '`"SIZE" in info.extensions`'),
    "SMTP.last_ehlo_response": ("the reply to EHLO; you may set it", "`(await client.check()).extensions`"),
    "SMTP.supported_auth_methods": ("the methods that both sides know", "`(await client.check()).mechanisms`"),
    "SMTP.AUTH_METHODS": ("the methods that `login` may use, in this order", "`Client(auth=[...])`"),
    "SMTP.get_transport_info": ('"sslcontext" and "cipher"', "`(await client.check()).tls`"),
    "SMTPResponse": ("a reply: code, message", "`Reply`"),
    "SMTPStatus": ("the reply codes", "integers; `Reply.is_transient` and so on"),
    "SMTPTokenGenerator": ("for annotations", "`sasl.TokenCallback`"),
    "SMTPException": ("the root of the exceptions", "`SMTPError`"),
    "SMTPServerDisconnected": ("there is no connection, or it ended", "`ConnectionLost`, or `DeliveryUnknown`"),
    "SMTPConnectError": ("no connection could be opened", "`ConnectError`, `TLSError`"),
    "SMTPConnectResponseError": ("the greeting was a refusal", "`ServiceUnavailable`"),
    "SMTPConnectTimeoutError": ("no connection or no greeting in time", "`SMTPTimeout`"),
    "SMTPTimeoutError": ("time was up", "`SMTPTimeout`"),
    "SMTPReadTimeoutError": ("no reply in time", "`SMTPTimeout`, or `DeliveryUnknown`"),
    "SMTPNotSupported": ("the server does not offer it", "`ExtensionRequired`"),
    "SMTPResponseException": ("the server refused; `.code`, `.message`", "`ReplyError`, `.reply`"),
    "SMTPHeloError": ("EHLO or HELO was refused", "`ServiceUnavailable`"),
    "SMTPDataError": ("DATA or the message was refused", "`MessageRefused`"),
    "SMTPAuthenticationError": ("the password was refused", "`AuthenticationError`"),
    "SMTPSenderRefused": ("MAIL was refused; `.sender`", "`SenderRefused`, `.sender`"),
    "SMTPRecipientRefused": ("RCPT was refused; `.recipient`", "an item of `RecipientsRefused.refused`"),
    "SMTPRecipientsRefused": ("all recipients were refused; `.recipients`", "`RecipientsRefused`, `.refused`"),
}
