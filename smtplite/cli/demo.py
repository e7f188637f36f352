"""``smtplite demo``: the main job, against the built-in server, with every byte to see."""

from __future__ import annotations

import argparse
from email.message import EmailMessage
from functools import partial

import anyio

from smtplite.cli.terminal import HelpFormatter, Output
from smtplite.client import Client
from smtplite.results import Receipt
from smtplite.testing import SMTPServer
from smtplite.trace import FlightSent, ReplyReceived, TraceEvent

__all__ = ["add_to"]

_REFUSED = "nobody@example.org"

_NEXT = """
What to try next

  smtplite serve
      catch mail: a server on port 1025 of this machine
  smtplite send "smtp://localhost:1025?tls=none" FILE
      send a message to it, from another terminal
  smtplite check smtp://mail.example.com
      see what a server offers; it sends no message
  smtplite COMMAND --help
      what else a command can do

In Python, begin with the quickstart
  https://smtplite.readthedocs.io/en/latest/quickstart.html"""


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser], summary: str) -> None:
    """Add the command to the command line; `summary` is what the list of commands says of it."""
    parser = commands.add_parser(
        "demo",
        help=summary,
        usage="smtplite demo",
        description="Start the built-in server on a free port of this machine, send it a message with two recipients, "
        "one of whom it refuses, and print the dialogue, the receipt and the message as it arrived.",
        epilog="example: smtplite demo",
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(run=lambda _: anyio.run(_demo))


def _message() -> EmailMessage:
    message = EmailMessage()
    message["From"] = "Ada <ada@example.org>"
    message["To"] = f"Grace <grace@example.org>, {_REFUSED}"
    message["Subject"] = "A message with a lone dot"
    message.set_content("The next line is a lone dot. It arrives as one.\n.\nBye.\n")
    return message


async def _demo() -> int:
    async with SMTPServer() as server:
        server.reply("RCPT", "550 5.1.1 no such user here", to=_REFUSED)
        print(f"The dialogue with {server.host}:{server.port} (each '=>' is one write: a round trip begins)\n")
        output = Output()
        async with Client(server.host, server.port, tls="none", trace=partial(_print_event, output)) as client:
            receipt = await client.send(_message())
        output.check()
        arrived = server.messages[0]
    _print_receipt(receipt)
    print(f"\nThe message as it arrived, for {', '.join(arrived.recipients)}\n")
    for line in arrived.content.decode("utf-8").splitlines():
        print(f"  | {line}")
    print(_NEXT)
    return 0


def _print_event(output: Output, event: TraceEvent) -> None:
    if isinstance(event, FlightSent):
        lines = [f"({event.content_bytes} bytes of content)"] if event.content_bytes else []
        for i, line in enumerate([*lines, *event.commands]):
            output.print(f"  {'  ' if i else '=>'} C: {line}")
    elif isinstance(event, ReplyReceived):
        lines = event.reply.text.split("\n")
        last = len(lines) - 1
        for i, text in enumerate(lines):
            output.print(f"     S: {event.reply.code}{' ' if i == last else '-'}{text}")


def _print_receipt(receipt: Receipt) -> None:
    print("\nThe receipt\n")
    print(f"  complete    {receipt.complete}")
    print(f"  accepted    {', '.join(receipt.accepted)}")
    for address, reply in receipt.refused.items():
        print(f"  refused     {address}: {reply}")
    print(f"  message_id  {receipt.message_id}")
