"""ONNX models from opset 7 on, without the onnx package: their messages are a table here."""
