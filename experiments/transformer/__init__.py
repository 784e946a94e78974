"""A transformer on digits as tokens, and its layers read as a flow of measures."""
