"""Two backbones aligned from pairs, so that the inputs of one are found and classified by those of the other."""
