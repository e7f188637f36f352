"""Thin adapters to frameworks. Each is imported by its own name, and needs what it adapts to."""

__all__: list[str] = []
