"""Send the messages that stdin describes, by curl, each from a file; the argument is the port."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path


def written(spec: dict[str, object]) -> bytes:
    """Return what somebody writes by hand: UTF-8 as it is, with the line endings of mail."""
    to = ", ".join(f"{name} <{address}>" for name, address in spec["to"])  # type: ignore[attr-defined]  # of JSON
    head = [f"From: {spec['sender_name']} <{spec['sender']}>", f"To: {to}", f"Subject: {spec['subject']}"]
    if spec["reply_to"] is not None:
        head.append(f"Reply-To: {spec['reply_to']}")
    kind, text = ("html", spec["html"]) if spec["html"] is not None else ("plain", spec["text"])
    head += ["MIME-Version: 1.0", f"Content-Type: text/{kind}; charset=utf-8", ""]
    return "\r\n".join([*head, *str(text).splitlines(), ""]).encode()


with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "mail.txt"
    for spec in json.load(sys.stdin):
        file.write_bytes(written(spec))
        command = ["curl", "--silent", "--show-error", f"smtp://127.0.0.1:{sys.argv[1]}/client.example"]
        command += ["--mail-from", spec["sender"], "--upload-file", str(file)]
        for recipient in spec["recipients"]:
            command += ["--mail-rcpt", recipient]
        subprocess.run(command, check=True)
