"""How it goes: one message, or a stream of them, over sessions of a pool."""

__all__: list[str] = []
