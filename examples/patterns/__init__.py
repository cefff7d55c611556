"""Examples: one small definition for each classic control-flow pattern."""
