"""Images to bytes and back: the entropy coder, the container, image files, the codec that joins them."""
