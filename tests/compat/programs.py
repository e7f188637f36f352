"""Small programs as people write them for aiosmtplib: each runs over both libraries, and is compared.

What they do was read in public programs: the forms of `send`, `SMTP` as a context manager and by hand, what is caught
and what is looked at, XOAUTH2 by `execute_command`, servers that are asked whether a mailbox exists.
"""

from __future__ import annotations

import asyncio
import base64
import copy
import pickle
import socket
from email.header import Header
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr
from pathlib import Path
from typing import Any

from smtplite.testing import ServerExtensions, ServerQuirks
from tests.compat.world import World, program

ADA, GRACE, ALAN, NOBODY = "ada@example.org", "grace@example.net", "alan@example.net", "nobody@example.net"
RAW = f"From: {ADA}\r\nTo: {GRACE}\r\nSubject: hello\r\n\r\nHello.\r\n.\r\n..two dots\r\n"
USERS = {"me": "secret"}
NONE = ServerExtensions.none()


def message(**fields: str) -> EmailMessage:
    made = EmailMessage()
    wanted = {"From": ADA, "To": GRACE, "Subject": "hello", "Date": "Mon, 30 Nov 2026 12:00:00 +0000"}
    for name, value in (wanted | {"Message-ID": "<1@example.org>"} | fields).items():
        made[name.replace("_", "-")] = value
    made.set_content("Hello.\n")
    return made


def mime(text: str = "Hello.") -> MIMEText:
    made = MIMEText(text, "plain", "utf-8")
    made["From"], made["To"], made["Subject"] = ADA, GRACE, "hello"
    made["Date"], made["Message-ID"] = "Mon, 30 Nov 2026 12:00:00 +0000", "<1@example.org>"
    return made


async def outcome(step: Any) -> Any:
    """Return what a step returns, or raises: for programs that go on after an error."""
    try:
        return await step
    except Exception as error:  # noqa: BLE001 (it is compared)
        return error


async def until_ended(smtp: Any) -> None:
    """Wait until the end of the connection is known to it: no event tells."""
    while smtp.is_connected:  # noqa: ASYNC110 (neither library has an event for it)
        await asyncio.sleep(0)


# send, in its forms


@program()
async def send_a_message_object(w: World) -> Any:
    return await w.lib.send(message(), **w.at)


@program()
async def send_mime_text(w: World) -> Any:
    return await w.lib.send(mime("Grüße,\nAda"), **w.at)


@program()
async def send_multipart_with_attachment(w: World) -> Any:
    made = MIMEMultipart("mixed", "one")
    made["From"], made["To"], made["Subject"] = formataddr(("Ada Lovelace", ADA)), GRACE, "Your invoice"
    made["Date"], made["Message-ID"] = "Mon, 30 Nov 2026 12:00:00 +0000", "<1@example.org>"
    alternative = MIMEMultipart("alternative", "two")
    alternative.attach(MIMEText("text", "plain"))
    alternative.attach(MIMEText("<p>html</p>", "html", "utf-8"))
    made.attach(alternative)
    part = MIMEApplication(b"%PDF-1.7\x00\xff", _subtype="pdf")
    part.add_header("Content-Disposition", "attachment", filename="invoice.pdf")
    made.attach(part)
    return await w.lib.send(made, **w.at)


@program()
async def send_a_str(w: World) -> Any:
    return await w.lib.send(RAW, sender=ADA, recipients=[GRACE], **w.at)


@program()
async def send_bytes(w: World) -> Any:
    return await w.lib.send(RAW.encode(), sender=ADA, recipients=GRACE, **w.at)


@program()
async def send_a_str_without_recipients(w: World) -> Any:
    return await w.lib.send(RAW, sender=ADA, **w.at)


@program()
async def send_bytes_without_a_sender(w: World) -> Any:
    return await w.lib.send(RAW.encode(), recipients=[GRACE], **w.at)


@program()
async def send_a_str_that_is_not_ascii(w: World) -> Any:
    return await w.lib.send("Subject: x\r\n\r\nGrüße\r\n", sender=ADA, recipients=[GRACE], **w.at)


@program()
async def send_to_cc_and_bcc(w: World) -> Any:
    return await w.lib.send(message(Cc=ALAN, Bcc="hidden@example.net"), **w.at)


@program()
async def send_to_others_than_the_headers_say(w: World) -> Any:
    return await w.lib.send(message(), sender="bounces@example.org", recipients=["x@example.net", ALAN], **w.at)


@program()
async def send_to_one_recipient_as_str(w: World) -> Any:
    return await w.lib.send(message(), recipients=ALAN, **w.at)


@program()
async def send_between_people_with_names(w: World) -> Any:
    made = message(
        From="Ada Lovelace <ada@example.org>", To='"Hopper, Grace" <grace@example.net>, Alan <alan@example.net>'
    )
    return await w.lib.send(made, **w.at)


@program()
async def recipients_with_names(w: World) -> Any:
    return await w.lib.send(message(), sender=f"Ada <{ADA}>", recipients=[f"Grace <{GRACE}>"], **w.at)


@program()
async def the_sender_field_goes_before_from(w: World) -> Any:
    return await w.lib.send(message(Sender="office@example.org"), **w.at)


@program()
async def a_resent_message_goes_to_whom_it_is_resent(w: World) -> Any:
    made = message(Resent_Date="Mon, 30 Nov 2026 13:00:00 +0000", Resent_From=GRACE, Resent_To=ALAN)
    return await w.lib.send(made, **w.at)


@program()
async def several_authors_and_no_sender(w: World) -> Any:
    return await w.lib.send(message(From=f"{ADA}, {ALAN}"), **w.at)


@program()
async def no_from(w: World) -> Any:
    made = message()
    del made["From"]
    return await w.lib.send(made, **w.at)


@program()
async def no_recipients(w: World) -> Any:
    made = message()
    del made["To"]
    return await w.lib.send(made, **w.at)


@program()
async def an_empty_list_of_recipients(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return await outcome(smtp.send_message(message(), recipients=[]))


@program()
async def a_subject_and_names_that_are_not_ascii(w: World) -> Any:
    return await w.lib.send(message(Subject="Grüße aus Köln", From=f"Jürgen <{ADA}>"), **w.at)


@program()
async def header_objects_and_names_of_before(w: World) -> Any:
    made = MIMEText("<p>Grüße</p>", "html", "utf-8")
    made["Subject"] = Header("Grüße aus Köln", "utf-8")  # type: ignore[assignment]  # what it says takes less
    made["From"] = formataddr((str(Header("Jürgen", "utf-8")), ADA))
    made["To"] = formataddr(("Zoë", GRACE))
    made["Date"], made["Message-ID"] = "Mon, 30 Nov 2026 12:00:00 +0000", "<1@example.org>"
    return await w.lib.send(made, **w.at)


@program(differs="encoded-addresses")
async def addresses_in_header_objects(w: World) -> Any:
    made = mime()
    for name, text in (("From", f"Jürgen <{ADA}>"), ("To", GRACE)):
        del made[name]
        made[name] = Header(text, "utf-8")  # type: ignore[assignment]  # likewise
    return await w.lib.send(made, **w.at)


@program(differs="no-address")
async def a_name_alone_in_from(w: World) -> Any:
    made = mime()
    made.replace_header("From", "Müller und Söhne")
    return await w.lib.send(made, sender=ADA, recipients=[GRACE], **w.at)


@program()
async def several_headers_of_recipients(w: World) -> Any:
    made = mime()
    del made["To"]
    made["To"] = f"{GRACE}, Alan <{ALAN}>"
    made["Cc"] = "third@example.net"
    return await w.lib.send(made, recipients=[GRACE, ALAN, "third@example.net", "hidden@example.net"], **w.at)


@program()
async def an_address_that_is_not_ascii(w: World) -> Any:
    return await w.lib.send(message(), recipients=["grâce@example.net"], **w.at)


@program(extensions=ServerExtensions(smtputf8=False))
async def an_address_that_is_not_ascii_where_that_is_not_offered(w: World) -> Any:
    return await w.lib.send(message(), recipients=["grâce@example.net"], **w.at)


@program(differs="address")
async def a_line_end_in_an_address(w: World) -> Any:
    return await w.lib.send(RAW, sender=ADA, recipients=["x@example.net>\r\nRCPT TO:<y@example.net"], **w.at)


@program()
async def an_address_with_a_space(w: World) -> Any:
    return await w.lib.send(RAW, sender=ADA, recipients=["grace hopper@example.net"], **w.at)


@program(differs="added-fields")
async def a_message_without_date_and_message_id(w: World) -> Any:
    made = message()
    del made["Date"], made["Message-ID"]
    return await w.lib.send(made, **w.at)


# Refusals


@program()
async def one_recipient_refused(w: World) -> Any:
    w.server.reply("RCPT", "550 5.1.1 no such user", to=NOBODY)
    errors, text = await w.lib.send(message(), recipients=[GRACE, NOBODY], **w.at)
    return errors, text, errors[NOBODY].code, errors[NOBODY].message, str(errors[NOBODY])


@program()
async def every_recipient_refused(w: World) -> Any:
    w.server.reply("RCPT", "550 5.1.1 no such user\nreally not")
    w.server.reply("RCPT", "450 4.2.1 busy", to=ALAN)
    return await w.lib.send(message(), recipients=[GRACE, NOBODY], **w.at)


@program()
async def the_sender_refused(w: World) -> Any:
    w.server.reply("MAIL", "550 5.7.1 not you")
    return await w.lib.send(message(), **w.at)


@program()
async def data_refused(w: World) -> Any:
    w.server.reply("DATA", "554 5.3.0 no")
    return await w.lib.send(message(), **w.at)


@program()
async def the_message_refused(w: World) -> Any:
    w.server.reply("END_OF_DATA", "554 5.7.1 spam")
    return await w.lib.send(message(), **w.at)


@program()
async def the_message_refused_for_now(w: World) -> Any:
    w.server.reply("END_OF_DATA", "451 4.3.0 later")
    return await w.lib.send(message(), **w.at)


@program()
async def a_421_to_mail(w: World) -> Any:
    w.server.reply("MAIL", "421 4.3.2 closing")
    return await w.lib.send(message(), **w.at)


@program()
async def a_421_to_the_only_recipient(w: World) -> Any:
    w.server.reply("RCPT", "421 4.3.2 closing")
    async with w.lib.SMTP(**w.at) as smtp:
        return await outcome(smtp.send_message(message())), smtp.is_connected


@program()
async def a_421_to_data(w: World) -> Any:
    w.server.reply("DATA", "421 4.3.2 closing")
    return await w.lib.send(message(), **w.at)


@program()
async def the_next_message_goes_after_a_refusal(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        w.server.reply("RCPT", "550 5.1.1 no", times=1)
        w.server.reply("MAIL", "451 4.3.0 later", sender="busy@example.org")
        first = await outcome(smtp.send_message(message()))
        by_hand = await smtp.mail(ADA), await smtp.rset()
        second = await outcome(smtp.sendmail("busy@example.org", [GRACE], RAW))
        return first, by_hand, second, await smtp.send_message(message()), await smtp.mail(ADA), await smtp.rset()


# Connecting


@program()
async def nobody_listens(w: World) -> Any:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        return await w.lib.send(message(), hostname="127.0.0.1", port=taken.getsockname()[1])


@program()
async def the_greeting_is_a_refusal(w: World) -> Any:
    w.server.reply("GREETING", "554 5.3.2 no service here", close=True)
    return await w.lib.send(message(), **w.at)


@program()
async def no_greeting_comes(w: World) -> Any:
    w.server.hold("GREETING")
    return await w.lib.send(message(), timeout=0.05, **w.at)


@program()
async def the_connection_ends_before_the_greeting(w: World) -> Any:
    w.server.reply("GREETING", b"", close=True)
    return await w.lib.send(message(), **w.at)


@program()
async def the_greeting_is_nonsense(w: World) -> Any:
    w.server.reply("GREETING", b"hello there\r\n")
    return await w.lib.send(message(), **w.at)


@program(extensions=NONE)
async def a_server_that_knows_helo_alone(w: World) -> Any:
    w.server.reply("EHLO", "502 5.5.1 what")
    async with w.lib.SMTP(**w.at) as smtp:
        sent = await smtp.sendmail(ADA, [GRACE], RAW)
        return sent, smtp.last_helo_response.code, smtp.last_ehlo_response, smtp.supports_esmtp


@program()
async def ehlo_and_helo_refused(w: World) -> Any:
    w.server.reply("EHLO", "550 5.7.1 not you")
    w.server.reply("HELO", "550 5.7.1 nor so")
    return await w.lib.send(message(), **w.at)


@program()
async def connect_twice(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    first = await smtp.connect()
    second = await outcome(smtp.connect())
    return first.code, second, await smtp.noop(), (await smtp.quit()).code


@program()
async def use_before_connect(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    steps = (
        smtp.noop,
        smtp.ehlo,
        smtp.quit,
        smtp.starttls,
        lambda: smtp.send_message(message()),
        lambda: smtp.mail(ADA),
    )
    login = await outcome(smtp.login("me", "secret"))
    return [await outcome(step()) for step in steps], login, smtp.is_connected, await outcome(smtp.data("x"))


@program()
async def quit_twice(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    await smtp.connect()
    return (await smtp.quit()).code, await outcome(smtp.quit()), smtp.is_connected


@program()
async def connect_again_after_quit_and_after_close(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    for end in (smtp.quit, None):
        await smtp.connect()
        await smtp.send_message(message())
        await end() if end is not None else smtp.close()
    smtp.close()
    async with smtp:
        return await smtp.send_message(message()), smtp.is_connected


@program()
async def settings_given_to_connect(w: World) -> Any:
    smtp = w.lib.SMTP(hostname="nowhere.invalid", port=1, timeout=20)
    await smtp.connect(hostname=w.server.host, port=w.server.port, timeout=10, start_tls=False)
    try:
        return (
            smtp.hostname == w.server.host,
            smtp.port == w.server.port,
            smtp.timeout,
            await smtp.send_message(message()),
        )
    finally:
        await smtp.quit()


@program()
async def a_context_manager_around_a_connected_one(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    await smtp.connect()
    async with smtp:
        sent = await smtp.send_message(message())
    return sent, smtp.is_connected


@program()
async def the_block_fails(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    try:
        async with smtp:
            raise KeyError("mine")
    except KeyError:
        return smtp.is_connected


@program()
async def the_block_fails_with_a_timeout(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    try:
        async with smtp:
            raise TimeoutError
    except TimeoutError:
        return smtp.is_connected


@program()
async def settings_that_exclude_each_other(w: World) -> Any:
    async def make(**settings: Any) -> Any:
        return w.lib.SMTP(**settings) and None

    with socket.socket() as sock:
        return [
            await outcome(make(use_tls=True, start_tls=True)),
            await outcome(make(tls_context=w.server.ca_context(), client_cert="x.pem")),
            await outcome(make(sock=sock, socket_path="/tmp/x")),
            await outcome(make(socket_path="/tmp/x", port=25)),
            await outcome(make(sock=sock, use_tls=True)),
            await outcome(make(hostname="x\r\ny")),
            await outcome(make(local_hostname="")),
            await outcome(make(local_hostname="a b")),
        ]


@program()
async def who_we_say_we_are(w: World) -> Any:
    async with w.lib.SMTP(local_hostname="client.example.org", **w.at) as smtp:
        await smtp.noop()
        await smtp.ehlo(hostname="other.example.org")
    said = w.server.connections[0].received
    return b"EHLO client.example.org\r\n" in said, b"EHLO other.example.org\r\n" in said


@program()
async def a_port_out_of_an_environment_variable(w: World) -> Any:
    return await w.lib.send(message(), hostname=w.server.host, port=str(w.server.port), use_tls=False)


@program()
async def where_we_connect_from(w: World) -> Any:
    return await w.lib.send(message(), source_address=("127.0.0.1", 0), **w.at)


@program()
async def a_socket_that_is_connected(w: World) -> Any:
    sock = socket.create_connection((w.server.host, w.server.port))
    return await w.lib.send(message(), hostname=None, sock=sock)


@program(socket_path="s")
async def a_unix_socket(w: World) -> Any:
    path = str(w.server.socket_path)
    sent = [await w.lib.send(message(), hostname=None, socket_path=form) for form in (path, path.encode(), Path(path))]
    async with w.lib.SMTP(hostname=None, socket_path=path) as smtp:
        return sent, await smtp.noop()


# TLS


@program(tls="implicit")
async def tls_from_the_start(w: World) -> Any:
    return await w.lib.send(message(), use_tls=True, tls_context=w.server.ca_context(), **w.at)


@program(tls="implicit")
async def tls_from_the_start_with_a_ca_of_ones_own(w: World) -> Any:
    async with w.lib.SMTP(use_tls=True, cert_bundle=w.ca, **w.at) as smtp:
        return await smtp.send_message(message()), smtp.get_transport_info("sslcontext") is not None


@program(tls="implicit")
async def tls_from_the_start_that_is_not_trusted(w: World) -> Any:
    return await w.lib.send(message(), use_tls=True, **w.at)


@program(tls="implicit")
async def tls_from_the_start_unverified(w: World) -> Any:
    return await w.lib.send(message(), use_tls=True, validate_certs=False, **w.at)


@program(tls="starttls")
async def starttls_required(w: World) -> Any:
    return await w.lib.send(message(), start_tls=True, cert_bundle=w.ca, **w.at)


@program(tls="starttls")
async def starttls_as_it_is_offered(w: World) -> Any:
    async with w.lib.SMTP(cert_bundle=w.ca, **w.at) as smtp:
        await smtp.send_message(message())
        return smtp.get_transport_info("sslcontext") is not None, await outcome(smtp.starttls())


@program(tls="starttls")
async def starttls_not_wanted(w: World) -> Any:
    async with w.lib.SMTP(start_tls=False, **w.at) as smtp:
        await smtp.send_message(message())
        return smtp.get_transport_info("sslcontext")


@program()
async def starttls_required_and_not_offered(w: World) -> Any:
    return await w.lib.send(message(), start_tls=True, **w.at)


@program(tls="starttls")
async def starttls_refused(w: World) -> Any:
    w.server.reply("STARTTLS", "454 4.7.0 not now")
    return await w.lib.send(message(), start_tls=True, cert_bundle=w.ca, **w.at)


@program(tls="starttls", differs="tls-errors")
async def starttls_that_is_not_trusted(w: World) -> Any:
    return await w.lib.send(message(), start_tls=True, **w.at)


@program(tls="starttls")
async def starttls_unverified(w: World) -> Any:
    return await w.lib.send(message(), start_tls=True, validate_certs=False, **w.at)


@program(tls="starttls", users=USERS)
async def connect_starttls_login_by_hand(w: World) -> Any:
    smtp = w.lib.SMTP(start_tls=False, **w.at)
    await smtp.connect()
    before = smtp.is_ehlo_or_helo_needed
    await smtp.ehlo()
    offered = smtp.supports_extension("STARTTLS"), "auth" in smtp.esmtp_extensions, smtp.is_ehlo_or_helo_needed
    response = await smtp.starttls(tls_context=w.server.ca_context())
    forgotten = smtp.esmtp_extensions, smtp.is_ehlo_or_helo_needed, smtp.supports_esmtp
    logged_in = await smtp.login("me", "secret")
    sent = await smtp.sendmail(ADA, GRACE, mime().as_string())
    return before, offered, response.code, forgotten, logged_in.code, sent, (await smtp.quit()).code


# Authentication


@program(tls="starttls", users=USERS, mechanisms=["PLAIN", "LOGIN"])
async def username_and_password(w: World) -> Any:
    return await w.lib.send(message(), username="me", password="secret", cert_bundle=w.ca, start_tls=True, **w.at)


@program(tls="starttls", users=USERS)
async def username_and_password_where_tls_is_offered(w: World) -> Any:
    return await w.lib.send(message(), username="me", password="secret", cert_bundle=w.ca, **w.at)


@program(tls="implicit", users=USERS, mechanisms=["LOGIN"])
async def credentials_as_bytes(w: World) -> Any:
    async with w.lib.SMTP(use_tls=True, cert_bundle=w.ca, **w.at) as smtp:
        return (await smtp.login(b"me", b"secret")).code, smtp.server_auth_methods, await smtp.send_message(message())


@program(tls="implicit", users=USERS, mechanisms=["PLAIN"])
async def a_wrong_password(w: World) -> Any:
    async with w.lib.SMTP(use_tls=True, cert_bundle=w.ca, **w.at) as smtp:
        refused = await outcome(smtp.login("me", "wrong-one"))
        return refused, smtp.is_connected, (await smtp.login("me", "secret")).code


@program(tls="implicit", users=USERS, mechanisms=["PLAIN"])
async def a_wrong_password_given_to_send(w: World) -> Any:
    return await w.lib.send(message(), username="me", password="wrong-one", use_tls=True, cert_bundle=w.ca, **w.at)


@program(tls="implicit", users=USERS, differs="one-password-one-try")
async def a_wrong_password_where_several_methods_are_offered(w: World) -> Any:
    async with w.lib.SMTP(use_tls=True, cert_bundle=w.ca, **w.at) as smtp:
        refused = await outcome(smtp.login("me", "wrong-one"))
    return refused, w.server.connections[0].received.count(b"AUTH ")


@program(tls="implicit")
async def login_where_no_authentication_is_offered(w: World) -> Any:
    return await w.lib.send(message(), username="me", password="secret", use_tls=True, cert_bundle=w.ca, **w.at)


@program(tls="implicit", users=USERS, mechanisms=["EXTERNAL"])
async def login_where_no_method_is_known(w: World) -> Any:
    return await w.lib.send(message(), username="me", password="secret", use_tls=True, cert_bundle=w.ca, **w.at)


@program(tls="implicit", users=USERS)
async def each_method_by_hand(w: World) -> Any:
    codes = []
    for method in ("auth_plain", "auth_login", "auth_crammd5"):
        async with w.lib.SMTP(use_tls=True, cert_bundle=w.ca, **w.at) as smtp:
            await smtp.ehlo()
            codes.append((await getattr(smtp, method)("me", "secret")).code)
    return codes


@program(tls="implicit", tokens={"me": "token"})
async def an_oauth_token(w: World) -> Any:
    async def token() -> str:
        return "token"

    return await w.lib.send(
        message(), username="me", oauth_token_generator=token, use_tls=True, cert_bundle=w.ca, **w.at
    )


@program(tls="implicit", users=USERS)
async def an_oauth_token_where_that_is_not_offered(w: World) -> Any:
    async def token() -> str:
        return "token"

    return await w.lib.send(
        message(), username="me", oauth_token_generator=token, use_tls=True, cert_bundle=w.ca, **w.at
    )


@program(tls="implicit", tokens={"me": "token"})
async def xoauth2_by_hand(w: World) -> Any:
    encoded = base64.b64encode(b"user=me\x01auth=Bearer token\x01\x01")
    wrong = base64.b64encode(b"user=me\x01auth=Bearer wrong-one\x01\x01")
    codes = []
    for parts in ([b"AUTH", b"XOAUTH2", encoded], [b"AUTH", b"XOAUTH2 " + encoded], [b"AUTH XOAUTH2 " + wrong]):
        async with w.lib.SMTP(use_tls=True, cert_bundle=w.ca, **w.at) as smtp:
            await smtp.ehlo()
            response = await smtp.execute_command(*parts)
            codes.append(response.code)
            if response.code == 334:
                codes.append((await smtp.execute_command(b"")).code)
            else:
                await smtp.send_message(message())
    return codes


@program(users=USERS, auth_in_clear=True, differs="no-password-in-clear")
async def a_password_without_tls(w: World) -> Any:
    return await w.lib.send(message(), username="me", password="secret", **w.at)


@program(users=USERS, auth_in_clear=True, differs="no-password-in-clear")
async def a_password_without_tls_by_hand(w: World) -> Any:
    async with w.lib.SMTP(start_tls=False, **w.at) as smtp:
        await smtp.ehlo()
        steps = [
            await outcome(smtp.login("me", "secret")),
            await outcome(smtp.auth_plain("me", "secret")),
            await outcome(smtp.execute_command(b"AUTH", b"PLAIN", b"AG1lAHNlY3JldA==")),
        ]
    return [step if isinstance(step, Exception) else "sent" for step in steps]


@program(users=USERS, auth_in_clear=True)
async def a_password_without_tls_where_that_is_allowed(w: World) -> Any:
    smtp = w.lib.SMTP(username="me", password="secret", start_tls=False, **w.at)
    smtp.ALLOW_INSECURE_AUTH = True  # a name that aiosmtplib does not know
    async with smtp:
        return await smtp.send_message(message())


# The connection's end, and time


@program(differs="unknown")
async def the_connection_ends_after_the_message(w: World) -> Any:
    w.server.reply("END_OF_DATA", b"", performs=True, close=True)
    return await w.lib.send(message(), **w.at)


@program(differs="unknown")
async def quit_in_a_finally(w: World) -> Any:
    """As fastapi-mail does: what `quit` raises stands in place of what `send_message` raised."""
    w.server.reply("END_OF_DATA", b"", performs=True, close=True)
    smtp = w.lib.SMTP(**w.at)
    await smtp.connect()
    try:
        return await smtp.send_message(message())
    finally:
        await smtp.quit()


@program(differs="unknown")
async def no_verdict_comes(w: World) -> Any:
    w.server.hold("END_OF_DATA")
    async with w.lib.SMTP(**w.at) as smtp:
        await smtp.mail(ADA)
        await smtp.rcpt(GRACE)
        return await smtp.data(RAW, timeout=2)


@program()
async def the_connection_ends_before_the_message(w: World) -> Any:
    w.server.reply("MAIL", b"", close=True)
    return await w.lib.send(message(), **w.at)


@program()
async def the_connection_ends_at_a_command(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        w.server.reply("NOOP", b"", close=True)
        lost = await outcome(smtp.noop())
        return lost, smtp.is_connected, await outcome(smtp.noop())


@program()
async def a_command_takes_too_long(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        w.server.hold("NOOP")
        late = await outcome(smtp.noop(timeout=0.05))
        return late, smtp.is_connected, await outcome(smtp.rset())


@program()
async def mail_takes_too_long(w: World) -> Any:
    w.server.hold("MAIL")
    async with w.lib.SMTP(**w.at) as smtp:
        return await smtp.mail(ADA, timeout=1)  # long enough for EHLO, which it may begin with


@program()
async def no_limit_of_time(w: World) -> Any:
    return await w.lib.send(message(), timeout=None, **w.at)


@program()
async def the_server_closes_between_messages_and_the_program_connects_again(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    await smtp.connect()
    await smtp.send_message(message())
    await w.server.close_idle()
    await until_ended(smtp)
    lost = await outcome(smtp.send_message(message()))
    await smtp.connect()
    sent = await smtp.send_message(message())
    await smtp.quit()
    return lost, sent


@program()
async def a_421_nobody_asked_for(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    await smtp.connect()
    await smtp.noop()
    await w.server.close_idle(b"421 4.4.2 idle\r\n")
    await until_ended(smtp)
    return await outcome(smtp.noop())


@program()
async def a_reply_of_nonsense(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        w.server.reply("NOOP", b"what?\r\n")
        return await outcome(smtp.noop())


# Several tasks


@program()
async def one_object_in_several_tasks(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        sent = await asyncio.gather(*(smtp.send_message(message(Subject=f"number {n}")) for n in range(5)))
        return sorted(text for _, text in sent)


@program()
async def one_object_whose_tasks_each_connect(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)

    async def task() -> Any:
        await smtp.connect()
        try:
            return (await smtp.noop()).code, len(w.server.messages)
        finally:
            await smtp.quit()

    return await asyncio.gather(*(task() for _ in range(3)))


@program(differs="cancelled")
async def a_command_after_a_cancelled_one(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    await smtp.connect()
    hold = w.server.hold("NOOP")
    cancelled = asyncio.create_task(smtp.noop())
    await hold.wait(1)
    cancelled.cancel()
    await asyncio.gather(cancelled, return_exceptions=True)
    after = asyncio.create_task(outcome(smtp.vrfy(GRACE)))
    await asyncio.sleep(0)
    hold.release()
    try:
        return await after
    finally:
        smtp.close()


@program()
async def closed_while_another_task_waits(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        hold = w.server.hold("NOOP")
        tasks = [asyncio.create_task(outcome(smtp.noop())) for _ in range(2)]
        await hold.wait(1)
        smtp.close()
        return [type(error).__name__ for error in await asyncio.gather(*tasks)]


@program()
async def many_sends_at_once(w: World) -> Any:
    sent = await asyncio.gather(*(w.lib.send(message(), **w.at) for _ in range(5)))
    return len(sent), sorted(text for _, text in sent)


@program()
async def without_an_event_loop(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    first = await asyncio.to_thread(smtp.sendmail_sync, ADA, [GRACE], RAW)
    return first, await asyncio.to_thread(smtp.send_message_sync, message())


# sendmail


@program()
async def sendmail_in_its_forms(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return [
            await smtp.sendmail(ADA, GRACE, RAW),
            await smtp.sendmail(ADA, [GRACE, ALAN], RAW.encode()),
            await smtp.sendmail("", (GRACE,), RAW.encode()),
            await smtp.sendmail(ADA, [GRACE], mime("ä").as_bytes()),
        ]


@program()
async def sendmail_to_nobody(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return await outcome(smtp.sendmail(ADA, [], RAW))


@program()
async def line_ends_and_dots(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        for end in ("\n", "\r", "\r\n"):
            await smtp.sendmail(ADA, [GRACE], end.join(["Subject: x", "", ".", "..", "no end of line"]))
    return [m.content for m in w.server.messages]


@program()
async def options_of_mail_and_rcpt(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        mail, rcpt = ["RET=HDRS", "ENVID=QQ314159"], ["NOTIFY=SUCCESS,FAILURE", f"ORCPT=rfc822;{GRACE}"]
        await smtp.sendmail(ADA, [GRACE], RAW, mail_options=[*mail, "BODY=8BITMIME"], rcpt_options=rcpt)
        await smtp.send_message(message(), mail_options=mail, rcpt_options=rcpt)
    wanted = (b"RET=HDRS", b"ENVID=QQ314159", b"NOTIFY=SUCCESS,FAILURE", b"ORCPT=rfc822;grace@example.net")
    return [w.server.connections[0].received.count(option) for option in wanted]


@program(extensions=ServerExtensions(dsn=False), differs="options-not-offered")
async def options_that_are_not_offered(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return await outcome(smtp.sendmail(ADA, [GRACE], RAW, mail_options=["RET=HDRS"]))


@program(extensions=ServerExtensions(eight_bit_mime=False), differs="eight-bit")
async def octets_that_are_not_ascii_where_that_is_not_offered(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return await outcome(smtp.sendmail(ADA, [GRACE], "Subject: x\r\n\r\nGrüße\r\n".encode()))


@program(differs="no-header")
async def text_without_headers(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        await smtp.sendmail(ADA, [GRACE], "Hello World")
        await smtp.sendmail(ADA, [GRACE], "Subject: testing\nHello World")
    return [m.content for m in w.server.messages]


@program(differs="bcc")
async def text_with_bcc(w: World) -> Any:
    made = mime()
    made["Bcc"] = ALAN
    async with w.lib.SMTP(**w.at) as smtp:
        return await smtp.sendmail(ADA, [GRACE, ALAN], made.as_string())


@program(differs="nul")
async def a_nul(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return await outcome(smtp.sendmail(ADA, [GRACE], b"Subject: x\r\n\r\na\0b\r\n"))


@program()
async def a_line_of_2000_octets(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        return await smtp.sendmail(ADA, [GRACE], "Subject: x\r\n\r\n" + "x" * 2000 + "\r\n")


# Commands by hand


@program()
async def each_command(w: World) -> Any:
    w.server.reply("VRFY", "250 2.1.5 <grace@example.net>")
    w.server.reply("EXPN", "250 2.1.5 everybody")
    async with w.lib.SMTP(**w.at) as smtp:
        return [
            (await smtp.ehlo()).code,
            (await smtp.helo()).code,
            await smtp.noop(),
            await smtp.rset(),
            await smtp.vrfy(GRACE),
            await smtp.expn("list@example.net"),
            (await smtp.help()) != "",
            await smtp.mail(ADA),
            await smtp.rcpt(GRACE),
            await smtp.rcpt(f"Alan <{ALAN}>", options=["NOTIFY=NEVER"]),
            await smtp.data("Subject: by hand\n\nHello.\n"),
        ]


@program()
async def commands_refused(w: World) -> Any:
    for verb in ("NOOP", "RSET", "VRFY", "EXPN", "HELP", "MAIL"):
        w.server.reply(verb, "550 5.7.1 no", times=1)
    async with w.lib.SMTP(**w.at) as smtp:
        steps = [smtp.noop(), smtp.vrfy("x@example.net"), smtp.expn("x@example.net"), smtp.help(), smtp.mail(ADA)]
        return [await outcome(step) for step in steps]


@program()
async def a_mailbox_is_looked_for(w: World) -> Any:
    """As programs do that want to know whether an address exists."""
    w.server.reply("RCPT", "550 5.1.1 no such user", to=NOBODY)
    async with w.lib.SMTP(**w.at) as smtp:
        hello, _ = await smtp.execute_command(b"EHLO checker.example.org")
        sender, _ = await smtp.execute_command(b"MAIL FROM:<>")
        known = await smtp.execute_command(b"RCPT", b"TO:<grace@example.net>")
        unknown = await smtp.execute_command(f"RCPT TO:<{NOBODY}>".encode())
        refused = await outcome(smtp.rcpt(NOBODY))
        return hello, sender, known, unknown, refused, await smtp.rset(), await smtp.execute_command(b"QUIT")


@program()
async def commands_of_ones_own(w: World) -> Any:
    w.server.reply("XFOO", "250 2.0.0 bar")
    async with w.lib.SMTP(**w.at) as smtp:
        known = await smtp.execute_command(b"XFOO", b"a", b"b")
        unknown = await smtp.execute_command(b"XBAR")
        injected = await outcome(smtp.execute_command(b"NOOP\r\nRSET"))
        return known, unknown.code, injected, (await smtp.execute_command(b"NOOP")).code


@program(differs="out-of-order")
async def commands_out_of_order(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        first = [await outcome(smtp.rcpt(GRACE)), await outcome(smtp.data("x"))]
        await smtp.mail(ADA)
        return [*first, await outcome(smtp.mail(ADA)), (await smtp.rset()).code]


@program(differs="more-than-a-line")
async def data_by_execute_command(w: World) -> Any:
    async with w.lib.SMTP(**w.at) as smtp:
        await smtp.mail(ADA)
        await smtp.rcpt(GRACE)
        step = await outcome(smtp.execute_command(b"DATA"))
        smtp.close()
        return step


@program()
async def data_by_hand_refused(w: World) -> Any:
    w.server.reply("END_OF_DATA", "552 5.3.4 too big")
    async with w.lib.SMTP(**w.at) as smtp:
        await smtp.mail(ADA)
        await smtp.rcpt(GRACE)
        return await outcome(smtp.data(RAW)), (await smtp.rset()).code


@program(differs="unknown")
async def the_connection_ends_after_data_by_hand(w: World) -> Any:
    w.server.reply("END_OF_DATA", b"", performs=True, close=True)
    async with w.lib.SMTP(**w.at) as smtp:
        await smtp.mail(ADA)
        await smtp.rcpt(GRACE)
        return await smtp.data(RAW)


@program(quirks=ServerQuirks())
async def what_is_known_of_the_server(w: World) -> Any:
    smtp = w.lib.SMTP(**w.at)
    before = smtp.esmtp_extensions, smtp.server_auth_methods, smtp.supports_esmtp, smtp.last_ehlo_response
    async with smtp:
        await smtp.ehlo()
        known = (
            smtp.esmtp_extensions,
            smtp.supports_extension("size"),
            smtp.supports_extension("x"),
            smtp.supports_esmtp,
        )
        smtp.last_ehlo_response = w.lib.SMTPResponse(250, "hello\nAUTH=LOGIN\nAUTH PLAIN LOGIN\nX-FOO a b\nSIZE")
        read = smtp.esmtp_extensions, smtp.server_auth_methods
    return before, known, read, smtp.esmtp_extensions


# Values and functions


@program()
async def exceptions_are_values(w: World) -> Any:
    made = [
        w.lib.SMTPException("x"),
        w.lib.SMTPResponseException(550, "x"),
        w.lib.SMTPSenderRefused(550, "x", ADA),
        w.lib.SMTPRecipientRefused(550, "x", GRACE),
        w.lib.SMTPRecipientsRefused([w.lib.SMTPRecipientRefused(550, "x", GRACE)]),
        w.lib.SMTPServerDisconnected("x"),
        w.lib.SMTPConnectTimeoutError("x"),
        w.lib.SMTPReadTimeoutError("x"),
        w.lib.SMTPConnectResponseError(554, "x"),
    ]
    texts = [(str(one), str(one.args[:2]), len(one.args)) for one in made[:4]]
    return made, [pickle.loads(pickle.dumps(one)) for one in made], copy.copy(made[1]), texts


@program()
async def functions_that_programs_import(w: World) -> Any:
    functions, made = w.lib.email, message(Cc=f"Alan <{ALAN}>", Bcc="hidden@example.net")
    return (
        functions.parse_address(f"Grace <{GRACE}>"),
        functions.quote_address(GRACE),
        functions.extract_sender(made),
        functions.extract_recipients(made),
        functions.extract_recipients(mime()),
        b"hidden" in functions.flatten_message(made),
        await outcome(_parse(functions, "a b@example.net")),
        w.lib.api.DEFAULT_TIMEOUT,
        w.lib.errors.SMTPException is w.lib.SMTPException,
        {status.name: int(status) for status in w.lib.SMTPStatus},
    )


async def _parse(functions: Any, address: str) -> Any:
    return functions.parse_address(address)
