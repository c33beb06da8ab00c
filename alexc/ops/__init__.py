"""What each op means: fields, shape rule, parameters, MACs and float64 reference, one class an op."""
