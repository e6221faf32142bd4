"""Fuzzing of every reader of bytes that others send: callers, providers, gateways, backends, and files of a spool."""
