"""Hooks for the HTTP clients on which LLM SDKs rest, one file a client."""
