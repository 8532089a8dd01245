"""What the project is compared with: other quantizers, probes, and networks trained by backprop."""
