"""Image files in, batches of uint8 RGB out; bad files set aside."""
