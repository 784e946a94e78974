"""What attention does to a measure of tokens."""
