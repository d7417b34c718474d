"""Pictures to bytes and back: the entropy coder, the container, image files, and the codec that joins them."""
