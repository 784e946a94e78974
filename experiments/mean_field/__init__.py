"""Networks as measures over neurons."""
