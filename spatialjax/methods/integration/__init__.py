"""One common section of several."""
