"""Examples: workflows with their components, each a folder that runs by itself."""
