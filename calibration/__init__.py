"""Activations in, thresholds and a Q/DQ graph out."""
