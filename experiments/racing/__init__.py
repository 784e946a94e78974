"""What benchmarks share: races, their tables, audits, and the same jobs by other libraries."""
