"""DNA language models as an exapt plugin."""

__version__ = "0.1.0"
