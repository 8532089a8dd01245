"""Timed comparisons with real peers in the same run."""
