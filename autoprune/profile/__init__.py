"""Measures networks on a device; a profiler of one's own is one method."""
