"""cuda-convnet's layer files of 2012."""
