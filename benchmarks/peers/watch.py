"""The longest time for which the event loop did nothing else."""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any, Final

import anyio

TICK_SECONDS: Final = 0.001


async def watched(work: Awaitable[object], result: dict[str, Any]) -> None:
    """Await `work`; put the longest stall into `result`.

    A task that wants to run each millisecond measures how late it is: by the clock, as a user has it, which counts what
    other processes took of our core; and by our own CPU time alone.
    """
    late = late_cpu = 0.0

    async def tick() -> None:
        nonlocal late, late_cpu
        while True:
            before, cpu_before = time.perf_counter(), time.process_time()
            await anyio.sleep(TICK_SECONDS)
            late = max(late, time.perf_counter() - before - TICK_SECONDS)
            late_cpu = max(late_cpu, time.process_time() - cpu_before)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(tick)
        await anyio.sleep(2 * TICK_SECONDS)  # it runs
        await work
        await anyio.sleep(2 * TICK_SECONDS)  # a stall at the end is seen, too
        tasks.cancel_scope.cancel()
    result["stall_seconds"] = late
    result["stall_cpu_seconds"] = late_cpu
