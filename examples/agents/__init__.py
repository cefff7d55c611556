"""Examples: six shapes of agent work, each a definition; the components call any OpenAI-compatible endpoint."""
