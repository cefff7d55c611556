"""The code audit: a folder of Python files, measured one by one by a durable job, ranked and reported."""
