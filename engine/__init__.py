"""Build, run and store engines of truncated CNNs."""
