"""Hand-written training steps, as a careful user of each framework would write them."""
