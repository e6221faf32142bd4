"""Reads the claims of incoming requests from headers, body, query, path, cookies and baggage."""
