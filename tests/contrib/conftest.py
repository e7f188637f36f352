"""Django is set up once for all tests of this folder, as a site without anything would be."""

from __future__ import annotations

from django.conf import settings  # type: ignore[import-untyped]

if not settings.configured:
    settings.configure(USE_TZ=True)
