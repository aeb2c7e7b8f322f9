"""The agent on a remote endpoint's host, and what asks it.

Reading order: `wire` is what both ends share, `http` and `server` serve, `client` asks, `meter` is
a meter made of the answers.
"""
