"""Errors of the agent."""

from __future__ import annotations

from service.errors import ServiceError


class AgentError(ServiceError):
    """Root of what keeps an agent from its work."""

    code = "agent"
    title = "The agent cannot go on"


class MaterialsError(AgentError):
    """Model or adapters to measure with cannot be made or read."""


class LaunchError(AgentError):
    """A server did not start for a reason that says nothing about memory.

    Parameters
    ----------
    detail
        What went wrong, with the end of its log.
    """


class PointError(AgentError):
    """A load point could not be measured: requests failed, or the server ended."""
