"""Choose int8 thresholds from activations, and quantize graphs."""
