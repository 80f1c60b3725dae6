"""Which tools a job may use: those that its source names and declares, or for a job of the API what its caller asks for. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from sentinel.errors import BadInput, GenerationFailed
from sentinel.job_request import API_TOOLS
from sentinel.model import Job, Source
from worker.declared_tools import read_declared
from worker.tools import Tool, tools


def check_tools(values: Mapping[str, str]) -> None:
    """Raise BadInput for a source's setting that names a tool which is not there, or declares one wrongly."""
    if unknown := sorted(set(named(values.get("tools", ""))) - tools().keys()):
        raise BadInput(f"There is no tool {unknown[0][:40]!r}; there are {', '.join(sorted(tools()))}.")
    read_declared(values.get("http_tools", ""))


def tools_for(job: Job, source: Source | None) -> dict[str, Tool]:
    """
    The tools by name, in the order of their names, so that the prompt is the same for every job of a source.

    Raises:
        GenerationFailed: a tool that is wanted is not there, or what the source declares cannot be read.
    """
    if source is None:
        wanted = [name for name in job.options.get("tools", ()) if name in API_TOOLS]
        return {name: tools()[name] for name in sorted(wanted)}
    try:
        check_tools(source.settings)
    except BadInput as error:
        raise GenerationFailed(f"The source's tools cannot be used: {error.detail}") from None
    found = {name: tools()[name] for name in sorted(named(source.setting("tools")))}
    allowed = found | read_declared(source.setting("http_tools"))
    return {name: tool for name, tool in allowed.items() if job.chat is not None or not tool.needs_chat}


def named(setting: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in setting.split(",") if name.strip()]
