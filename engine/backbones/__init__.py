"""The kinds of backbones: torchvision's and timm's networks, EfficientNet-Lite, any torch module, and ONNX files."""
