"""Built-in strategies."""

exapt_api = 1
