"""Mapping of spans to Langfuse's attributes."""
