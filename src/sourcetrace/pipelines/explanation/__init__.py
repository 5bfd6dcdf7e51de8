"""Why queries came out as they did: their strongest training examples, token by token."""
