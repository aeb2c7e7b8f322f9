"""Routing inside a service that wants no proxy: beside the libraries that it already calls.

In: a router, an encoder, and clients of those libraries. Out: one client that routes. Each module
needs its library, and says which extra brings it: :mod:`cr2fast.integrations.openai`,
:mod:`cr2fast.integrations.litellm`.
"""
