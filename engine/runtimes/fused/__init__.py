"""Fused networks for NVIDIA GPUs: a plan of few steps, and kernels that keep int8 or float16 between them.

`plan` turns an ONNX graph into steps on tensors that are stored with their channels last, `kernels` are those steps in
Triton, and `network` runs them.
"""
