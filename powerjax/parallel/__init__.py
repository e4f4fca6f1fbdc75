"""The processes and devices of one run."""
