"""How batches leave the process: by a line of HTTP, by way of the disk where there is a spool."""
