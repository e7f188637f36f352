"""SyncClient: a Client without ``await``, for scripts, WSGI, Celery and threads.

::

    with SyncClient("smtp.example.com", username="me", password="...") as client:
        receipt = client.send(message)

All SyncClients of a process share one event loop, which runs in a thread of its own. Both begin with the first call, so
a server may fork its workers before that; a process that is forked later begins with a loop of its own. This module
uses `Client` as any program could.
"""

from smtplite.sync.client import SyncClient, SyncSession
from smtplite.sync.deliveries import SyncDeliveries

__all__ = ["SyncClient", "SyncDeliveries", "SyncSession"]
