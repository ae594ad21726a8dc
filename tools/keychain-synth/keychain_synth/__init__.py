"""Long-context rows with key chains that keep to a length, with answers that can be verified [arXiv 2510.19363]."""

__version__ = "0.1.0"
