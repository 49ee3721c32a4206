"""How many tasks an event loop has."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from serving.observability.event_loop import EventLoopTasks


def count() -> float | None:
    registry = CollectorRegistry()
    registry.register(EventLoopTasks())
    return registry.get_sample_value("punctual_event_loop_tasks")


def test_without_a_loop_there_is_none() -> None:
    assert count() == 0.0


@pytest.mark.anyio
async def test_tasks_count_until_they_end() -> None:
    before = count()
    assert before
    task = asyncio.create_task(asyncio.Event().wait())
    assert count() == before + 1
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert count() == before
