"""Built-in writers."""

exapt_api = 1
