"""Methods that find the regions of a tissue."""
