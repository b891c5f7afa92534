"""Joint alignment and quality: one file for each term, one for the loss."""
