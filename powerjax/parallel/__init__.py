"""Processes and devices of one run."""
