"""The parts of the static check, one subject each: components, data flow, advice. Nothing here runs anything."""
