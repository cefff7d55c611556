"""An example: a contract is read, its risky clauses are scored, approved by a person, and reported."""
