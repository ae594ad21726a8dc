"""What entries add up to."""
