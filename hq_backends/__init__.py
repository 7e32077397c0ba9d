"""Overflow backends that come with hybrid-queue, one folder each. They do not know one another."""
