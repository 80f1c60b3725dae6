"""Faults on purpose: servers of our own that are killed, stopped, filled and cut off while webhooks arrive; then a checker.

Nothing here runs in production, and nothing here touches a server that it did not start.
"""
