"""The performance table: our figures beside those of plain SQLite in the same run. `python -m benchmarks --help`."""
