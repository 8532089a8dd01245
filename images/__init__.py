"""Decode image files to batches of uint8 RGB; unreadable files are skipped."""
