"""What a request says of itself: headers, body, query, and which of it is believed."""
