"""What depends on the operating system: each difference in one place, under a name that says what it is for.

The rooms above ask for what they need, and never which system they are on. What depends on the event loop alone is in
`smtplite.net`.
"""

from __future__ import annotations

__all__: list[str] = []
