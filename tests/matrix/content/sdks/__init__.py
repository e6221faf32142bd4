"""The calls of each SDK, marked wherever content can be."""
