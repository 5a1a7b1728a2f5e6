"""Who calls: keys, users, clients, tokens, sessions, and the gate that asks for them."""
