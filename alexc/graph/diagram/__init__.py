"""A graph as a drawing: SVG that needs nothing but a viewer, and is the same every time.

Each layer is a card with its name, what it does, its output's shape and its parameters, coloured by
family; pointwise layers are labels in the card of the layer that they follow. The block at a card's
left is its output: as high as the image (on a scale of square roots), as deep as it has channels
(logarithms). Where convolutions have two groups there are two blocks, left and right, joined by the
wires of their own column. Layers that share a prefix (`fire2/…`) stand in a frame.

The way of the data: `boxes` folds layers, `wording` and `lettering` say what is written and how
wide it is, `cards` cuts it to size, `layout` finds the places and `routing` the wires between them,
`painting` draws the parts with `markup`, and `drawing` puts them together.
"""

from alexc.graph.diagram.drawing import svg

__all__ = ["svg"]
