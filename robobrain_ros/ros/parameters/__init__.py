"""The parameters of the node: one table, from which they are declared, checked and documented."""
