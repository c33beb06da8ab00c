"""PyTorch's state dicts: `.pth` and `.safetensors`."""
