"""The ESM-2 protein language models as an exapt plugin."""

__version__ = "0.2.0"
