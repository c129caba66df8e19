"""A stream of sensor readings: a filter, an order per sensor, and a chain of two functions."""
