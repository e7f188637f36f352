"""Send the messages that stdin describes, by swaks; the argument is the port."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

with tempfile.TemporaryDirectory() as folder:
    for spec in json.load(sys.stdin):
        command = ["swaks", "--server", f"127.0.0.1:{sys.argv[1]}", "--hide-all", "--helo", "client.example"]
        command += ["--from", spec["sender"], "--to", ",".join(spec["recipients"])]
        command += ["--header", f"Subject: {spec['subject']}"]
        command += ["--h-From", f"{spec['sender_name']} <{spec['sender']}>"]
        if spec["reply_to"] is not None:
            command += ["--header", f"Reply-To: {spec['reply_to']}"]
        command += ["--body", spec["html"] if spec["html"] is not None else spec["text"]]
        if spec["file"] is not None:
            file = Path(folder) / spec["file"]
            file.write_bytes(b"%PDF-1.7 " + bytes(range(256)) * 20)
            command += ["--attach-type", "application/pdf", "--attach", f"@{file}"]
        subprocess.run(command, check=True)
