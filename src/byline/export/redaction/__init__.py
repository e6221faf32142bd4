"""Redaction of content, credentials, and binary data before export."""
