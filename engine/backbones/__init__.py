"""The kinds of backbones: torchvision's and timm's networks, any torch module, and ONNX files."""
