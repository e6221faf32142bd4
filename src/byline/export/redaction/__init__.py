"""What a destination may not see: content, credentials, binary parts."""
