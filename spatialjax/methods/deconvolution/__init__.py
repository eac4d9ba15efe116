"""Which cell types each spot holds, and how many cells of each: one method a file."""
