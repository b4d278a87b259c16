"""How responses are decoded: rows and their stop rules, sampling, and two loops that draw them."""
