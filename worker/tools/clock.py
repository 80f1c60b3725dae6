"""What time it is. In UTC, because nobody says where the user is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from worker.tools import Surroundings, Tool, takes


class Clock(Tool):
    """The date and the time."""

    name = "clock"
    description = "tells the date, the weekday and the time in UTC"
    parameters = takes({})

    async def run(self, arguments: Mapping[str, Any], around: Surroundings) -> str:
        """The time of the call."""
        return datetime.fromtimestamp(around.now, UTC).strftime("%A, %Y-%m-%d, %H:%M:%S UTC")


tool = Clock()
