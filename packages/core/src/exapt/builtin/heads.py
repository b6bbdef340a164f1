"""Built-in heads."""

exapt_api = 1
