"""Caffe: prototxts and caffemodels, of the old syntax (`layers`) and the new (`layer`)."""
