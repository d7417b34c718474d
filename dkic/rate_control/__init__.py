"""Rate control: measurements of images at operating points, and encoding a set of images to a target rate."""
