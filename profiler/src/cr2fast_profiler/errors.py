"""What the profiler raises: an error says what was expected, what came and what to do."""

from __future__ import annotations


class ProfilerError(Exception):
    """Base of every error a caller can act on."""


class EndpointError(ProfilerError):
    """An endpoint is unreachable, refuses, or answers what no endpoint of its kind answers."""


class RunError(ProfilerError):
    """A run cannot start, go on or be read."""


class WriteError(ProfilerError):
    """A file cannot be written: the disk is full, or its folder refuses."""


class FitError(ProfilerError):
    """The rows do not determine the coefficients."""


class AgentError(ProfilerError):
    """The agent cannot start."""


class LinkError(ProfilerError):
    """The link could not be measured."""


class TableError(ProfilerError):
    """The runs do not make a cost table."""


class LogError(ProfilerError):
    """A log of calls cannot be read, or says too little."""
