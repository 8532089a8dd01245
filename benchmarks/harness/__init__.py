"""What benchmarks share: data, timing, failures, the machine."""
