"""Training of codec networks on folders of photographs."""
