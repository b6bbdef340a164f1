"""Tables, splits and batches: how a file becomes padded tensors."""
