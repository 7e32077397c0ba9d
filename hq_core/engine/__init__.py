"""The queue without its way of waiting. Private: both front ends share it."""
