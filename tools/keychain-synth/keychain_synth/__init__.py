"""Long-context rows with key chains: exact length, verifiable answer, no shortcut [arXiv 2510.19363]."""

__version__ = "0.1.0"
