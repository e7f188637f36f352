"""The simulation: the protocol halves of client and testing server, joined by octets. No sockets, no clock, no tasks.

- `wire`: the octets between the two, and what may befall them;
- `client`: the naive twin of `smtplite.sending.session`, over a wire instead of a stream;
- `user_agent`: what stands above a session: messages, connections, and when a message is sent again;
- `conversations`: what is said;
- `judge`: the invariants;
- `digest`: what the runs did, in a form that can be compared with another commit.

A run is the same each time. ``python -m tests.simulation --exhaustive`` tries far more of them than the tests do.
"""
