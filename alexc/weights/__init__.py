"""Weights: drawn once in numpy, stored once in safetensors, shared by every backend."""
