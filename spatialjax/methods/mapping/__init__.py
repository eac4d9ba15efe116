"""Where single cells of a reference belong among spots: one method a file."""
