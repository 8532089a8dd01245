"""Fast bodies for NVIDIA GPUs, compiled by Triton; see `reference` for what they compute."""
