"""Two dictionaries: what each op is called in PyTorch, and what it is called in ONNX."""
