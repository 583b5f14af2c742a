"""Slow, plain references written from the published descriptions, never from the library."""
