"""Thin adapters to frameworks. Each is imported by its own name, and needs its framework."""

__all__: list[str] = []
