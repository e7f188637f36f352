"""SyncClient: a Client without ``await``, for scripts, WSGI, Celery and threads.

::

    with SyncClient("smtp.example.com", username="me", password="...") as client:
        receipt = client.send(message)

All SyncClients of a process share one event loop, which runs in a thread of its own. Both begin with the first call, so
that a server may fork its workers before; a process that was forked later begins with a loop of its own. This module
stands above `Client` and uses nothing that a program of yours could not use.
"""

from smtplite.sync.client import SyncClient, SyncSession
from smtplite.sync.deliveries import SyncDeliveries

__all__ = ["SyncClient", "SyncDeliveries", "SyncSession"]
