"""Search: strategies, rates and layers, chosen by the valid part alone."""
