"""Tables of pictures and the readers that make them."""
