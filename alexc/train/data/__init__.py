"""Images with labels, from a URI: `open_data("fashion-mnist:/data", …)`."""
