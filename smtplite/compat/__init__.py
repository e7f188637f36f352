"""The names of other libraries on top of smtplite: change one import, and go on from there.

`smtplite.compat.aiosmtplib` for programs that use aiosmtplib.
"""

__all__: list[str] = []
