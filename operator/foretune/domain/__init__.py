"""Values and rules of tuning: no I/O, no clock, no framework; wrong values can't be built."""
