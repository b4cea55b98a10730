"""A theatre whose seats go grey for everybody the moment one visitor picks them."""
