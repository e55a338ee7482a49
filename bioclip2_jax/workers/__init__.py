"""Processes that work as one."""
