"""What candidates cost: counted from shapes, or predicted from measured latency tables."""
