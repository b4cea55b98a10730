"""Applications that the end-to-end tests serve, unmodified, as their frameworks' users write them."""
