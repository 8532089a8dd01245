"""Arrays in, arrays out: bits, projections, Grams and the ridge."""
