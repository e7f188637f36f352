"""Submission services: what they publish of their limits, from the rules that come with smtplite."""

from __future__ import annotations

from making.markdown import code, table
from smtplite.worker.shaping.services import services


def services_table() -> str:
    """Return the table of submission services."""
    rows = []
    for rule in services().relays:
        origins = [*rule.origins.values(), *(each.origin for each in rule.automation)]
        sources = dict.fromkeys(origin.source for origin in origins)
        days = [origin.checked.isoformat() for origin in origins if origin.checked is not None]
        limits = (rule.connection_limit, rule.max_deliveries_per_connection, rule.max_message_rate, rule.quota)
        rows.append(
            (
                rule.service,
                code(rule.pattern),
                *("-" if limit is None else f"{limit:,}" if isinstance(limit, int) else str(limit) for limit in limits),
                rule.note or "",
                ", ".join(f"[{number}]({source})" for number, source in enumerate(sources, 1)),
                min(days, default=""),
            )
        )
    heads = ("Service", "Host", "Connections", "In a connection", "Rate", "Quota", "", "Source", "Read on")
    return table(heads, rows)
