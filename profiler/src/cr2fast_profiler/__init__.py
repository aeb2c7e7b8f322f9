"""Latency and energy of LLMs on a device, an edge server and their link, as a cost table."""

__version__ = "0.1.0"
