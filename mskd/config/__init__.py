"""The study configuration: pydantic models, the one source of schema, documentation and defaults."""
