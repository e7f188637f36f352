"""Sends the mail that `mailqueue.enqueue` queued: a worker for procrastinate that is meant to be copied and changed.

``python worker.py`` runs a worker; run as many as you need. ``python worker.py schema`` creates the tables, once.
"""

from __future__ import annotations

import asyncio
import os
import sys

from mailqueue import DATABASE, DEAD_AFTER_SECONDS, SCHEMA, app

from smtplite import Client
from smtplite.worker.postgres import PostgresStore

SERVER = os.environ.get("MAIL_URL", "smtp://localhost:1025?tls=none")
CONNECTIONS = int(os.environ.get("MAIL_CONNECTIONS", "4"))
JOBS_IN_FLIGHT = int(os.environ.get("MAIL_JOBS_IN_FLIGHT", "8"))
SEND_SECONDS = float(os.environ.get("MAIL_SEND_SECONDS", "660"))
HEARTBEAT_SECONDS = float(os.environ.get("MAIL_HEARTBEAT_SECONDS", "10"))
POLL_SECONDS = float(os.environ.get("MAIL_POLL_SECONDS", "5"))


async def run() -> None:
    """Run jobs until SIGTERM or SIGINT; then take no more jobs, and finish those in flight."""
    client = Client.from_url(SERVER, max_connections=CONNECTIONS, timeout=SEND_SECONDS)
    async with app.open_async(), client, PostgresStore(DATABASE) as store:
        await app.run_worker_async(
            queues=["mail"],
            concurrency=JOBS_IN_FLIGHT,
            additional_context={"client": client, "store": store},
            # Longer than a send may take, so only SIGKILL can cut it off in the middle
            shutdown_graceful_timeout=SEND_SECONDS + 10,
            fetch_job_polling_interval=POLL_SECONDS,
            update_heartbeat_interval=HEARTBEAT_SECONDS,
            stalled_worker_timeout=DEAD_AFTER_SECONDS,
            delete_jobs="never",
        )


async def create_schema() -> None:
    """Create procrastinate's tables and smtplite's."""
    async with app.open_async(), PostgresStore(DATABASE) as store:
        await store.install()
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async(SCHEMA)


if __name__ == "__main__":
    asyncio.run(create_schema() if sys.argv[1:] == ["schema"] else run())
