"""Built-in readers."""

exapt_api = 1
