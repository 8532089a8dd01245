"""The kinds of backbones: torchvision's networks, any torch module, and ONNX files."""
