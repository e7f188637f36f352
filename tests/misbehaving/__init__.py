"""The client against servers that break the rules, octet by octet over real sockets.

`register.HELD` says which test holds which rule, and which advisory; `test_register.py` holds the register.
"""
